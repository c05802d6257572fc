"""The authors' checkpoints under their own key names, read into :class:`Occo`."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fusionkit.errors import BadRequest
from fusionkit_occo.network import Occo

NAMES = (
    (r"^v(\d)\.Conv_BN_ReLU_2", lambda m: f"visible.{int(m[1]) - 1}"),
    (r"^i(\d)\.Conv_BN_ReLU_2", lambda m: f"infrared.{int(m[1]) - 1}"),
    (r"^((?:visible|infrared)\.\d)\.0\.", r"\1.conv1."),
    (r"^((?:visible|infrared)\.\d)\.1\.", r"\1.norm1."),
    (r"^((?:visible|infrared)\.\d)\.3\.", r"\1.conv2."),
    (r"^((?:visible|infrared)\.\d)\.4\.", r"\1.norm2."),
    (r"^fusion(\d)", lambda m: f"fusion.{int(m[1]) - 1}"),
    (r"\.channel_weight\.mlp\.0", ".channel_gates.hidden"),
    (r"\.channel_weight\.mlp\.2", ".channel_gates.out"),
    (r"\.space_weight1\.mlp\.0", ".spatial_gate.hidden"),
    (r"\.space_weight1\.mlp\.2", ".spatial_gate.out"),
    (r"\.cross\.channel_proj([34])", lambda m: f".attention.project.{int(m[1]) - 3}"),
    (r"\.cross\.cross_attn\.kv(\d)", lambda m: f".attention.keys_values.{int(m[1]) - 1}"),
    (r"\.cross\.end_proj(\d)", lambda m: f".attention.out.{int(m[1]) - 1}"),
    (r"\.cross\.norm(\d)", lambda m: f".attention.norm.{int(m[1]) - 1}"),
    (r"\.channel_emb\.residual", ".merge.residual"),
    (r"\.channel_emb\.channel_embed\.0", ".merge.embed"),
    (r"\.channel_emb\.channel_embed\.1", ".merge.around"),
    (r"\.channel_emb\.channel_embed\.3", ".merge.back"),
    (r"\.channel_emb\.channel_embed\.4", ".merge.norm1"),
    (r"\.channel_emb\.norm", ".merge.norm2"),
    (r"^up_concat(\d)", lambda m: f"decoder.{int(m[1]) - 1}"),
    (r"^final", "last"),
)
"""Official names to ours, one rule after the other."""

IDLE = re.compile(r"^fusion([1-4])\.space_weight2\.mlp\.(0|2)\.(weight|bias)$")
"""In the released file, but the second spatial gate is never called: checked, then left out."""


def official(state: Mapping[str, Tensor]) -> "OfficialOcco":
    """The released network with the authors' weights, called as ``network(vis=, ir=)``.

    Args:
        state: the state dict, or the whole released checkpoint with its ``state_dict``.

    Raises:
        BadRequest: a tensor is missing, unknown, or of another shape; the message names it.
    """
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    state = {key.removeprefix("module."): value for key, value in state.items()}
    network = Occo()
    own = network.state_dict()
    theirs = {our_name(key): key for key in state if not IDLE.match(key)}
    idle = {f"fusion{level}.space_weight2" for level in range(1, 5)}
    missing = sorted(set(own) - set(theirs)) + sorted(
        name for name in idle if not any(key.startswith(f"{name}.") for key in state)
    )
    unknown = sorted(key for name, key in theirs.items() if name not in own)
    if missing or unknown:
        what = "; ".join(
            f"{said} {', '.join(keys[:3])}{' ...' if len(keys) > 3 else ''}"
            for said, keys in (("it lacks (by our names)", missing), ("unknown are", unknown))
            if keys
        )
        raise BadRequest(
            f"these are no weights of the released OCCO: {what}. Expected is its checkpoint, "
            "{'meta', 'state_dict', 'optimizer'}, or the state dict alone: 298 tensors."
        )
    values = {}
    for name, key in theirs.items():
        value, shape = state[key], own[name].shape
        # A 1x1 convolution over places is a linear layer over tokens here.
        flat = value.squeeze((-1, -2)) if value.ndim == 4 and len(shape) == 2 else value
        if flat.shape != shape:
            raise BadRequest(
                f"{key} is {tuple(value.shape)} in the file, {tuple(shape)} in the network."
            )
        values[name] = flat
    network.load_state_dict(values)
    return OfficialOcco(network)


def our_name(key: str) -> str:
    """Where a tensor of the released checkpoint goes."""
    for pattern, ours in NAMES:
        key = re.sub(pattern, ours, key)
    return key


class OfficialOcco(nn.Module):
    """The call of the released network around ours.

    In evaluation mode it goes by the kept statistics, as evaluation mode does. The attribute
    ``network``, which takes a Batch, goes by the picture's own ones, as the released test program.

    Shape:
        - vis, ir ``(B, 1, H, W)`` -> ``(B, 1, H, W)``, not stretched
    """

    def __init__(self, network: Occo) -> None:
        super().__init__()
        self.network = network

    def forward(self, *, vis: Tensor, ir: Tensor) -> Tensor:
        form = torch.channels_last
        return self.network.raw(
            vis.contiguous(memory_format=form), ir.contiguous(memory_format=form)
        )
