"""The authors' weights: ``Enc_final.pt`` and ``Dec_final.pt``, two bare state dicts."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from fusionkit.errors import BadRequest
from fusionkit_ldfusion.network import LDFusion

NAMES = {
    "Enc.content_encoder1.model.": "encoder.visible_content.",
    "Enc.content_encoder2.model.": "encoder.infrared_content.",
    "Enc.style_encoder1.model.": "encoder.visible_style.",
    "Enc.style_encoder2.model.": "encoder.infrared_style.",
    "Dec.mlp.model.": "decoder.to_adain.",
    "Dec.model_local.": "decoder.residual.",
    "Dec.model_up.10.": "decoder.up.9.",  # our last layer mirrors the edges itself
    "Dec.model_up.": "decoder.up.",
    ".block.1.": ".first.",
    ".block.5.": ".second.",
}
UNUSED = ("running_mean", "running_var")
"""Buffers of the authors' AdaIN layers that never influence a result."""


class Official(nn.Module):
    """Called as the released code is: grey pictures in, the fused grey picture out."""

    def __init__(self, network: LDFusion) -> None:
        super().__init__()
        self.network = network

    def forward(self, *, vis: Tensor, ir: Tensor) -> Tensor:
        """``(B, 1, H, W)`` each, in [0, 1] -> ``(B, 1, H, W)`` in [0, 1]."""
        return self.network.fuse(vis, ir)


def official(state: Mapping[str, Any]) -> Official:
    """Our network with the authors' weights.

    Args:
        state: one state dict with the prefixes ``Enc.`` and ``Dec.``; or the two released files by
            name, each a state dict without prefix.

    Raises:
        BadRequest: keys are missing, unknown or of another shape; or one of the two files alone.
    """
    state = _one_dict(state)
    for half, file in (("Enc.", "Enc_final.pt"), ("Dec.", "Dec_final.pt")):
        if not any(key.startswith(half) for key in state):
            raise BadRequest(
                f"these are not the weights of LDFusion's two halves: no key begins with {half!r}. "
                f"They are released as two files, Enc_final.pt and Dec_final.pt ({file} is the "
                "missing one): give the folder that holds both, or one state dict whose keys begin "
                "with 'Enc.' and 'Dec.'."
            )
    network = LDFusion()
    try:
        network.load_state_dict(
            {our_name(k): v for k, v in state.items() if not k.endswith(UNUSED)}
        )
    except RuntimeError as error:
        faults = "; ".join(line.strip() for line in str(error).splitlines()[1:4])
        raise BadRequest(
            f"these weights do not fit LDFusion's network (our names, see NAMES in "
            f"fusionkit_ldfusion/official.py): {faults}"
        ) from None
    return Official(network.eval())


def _one_dict(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Keys with ``Enc.`` and ``Dec.``, whichever way the two halves were given."""
    if all(isinstance(value, Mapping) for value in state.values()):  # the files of a folder
        found = {}
        for half in ("Enc", "Dec"):
            files = [name for name in state if str(name).startswith(half)]
            if len(files) > 1:
                raise BadRequest(
                    f"the folder holds several files of one half: {', '.join(sorted(files))}. "
                    "Leave Enc_final.pt and Dec_final.pt in it, or another pair."
                )
            for name in files:
                found |= {f"{half}.{k.removeprefix('module.')}": v for k, v in state[name].items()}
        return found
    state = {key.removeprefix("module."): value for key, value in state.items()}
    alone = {"content_encoder1": "Enc.", "model_up": "Dec."}
    for first, half in alone.items():
        if any(key.startswith(first) for key in state):
            return {half + key: value for key, value in state.items()}
    return state


def our_name(key: str) -> str:
    """Our name of an official parameter."""
    for theirs, ours in NAMES.items():
        key = key.replace(theirs, ours)
    return key
