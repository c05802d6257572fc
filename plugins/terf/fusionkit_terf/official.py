"""The authors' checkpoint under its own key names, read into :class:`Terf`."""

import re
from collections.abc import Mapping

from torch import Tensor, nn

from fusionkit.errors import BadRequest
from fusionkit_terf.network import Terf

NAMES = (
    (r"^FEconv\.", "shallow."),
    (r"^RDB(\d)\.dense_layers\.(\d)\.conv\.", lambda m: f"dense.{int(m[1]) - 1}.layers.{m[2]}."),
    (r"^RDB(\d)\.conv_1x1\.", lambda m: f"dense.{int(m[1]) - 1}.mix."),
    (r"^GFEconv\.", "gather."),
    (r"^(refinement\.\d)\.norm(\d)\.body\.", r"\1.norm\2."),
    (r"^(refinement\.\d)\.attn\.qkv_dwconv\.", r"\1.attention.around."),
    (r"^(refinement\.\d)\.attn\.project_out\.", r"\1.attention.project."),
    (r"^(refinement\.\d)\.attn\.", r"\1.attention."),
    (r"^(refinement\.\d)\.ffn\.project_in\.", r"\1.feed_forward.up."),
    (r"^(refinement\.\d)\.ffn\.dwconv\.", r"\1.feed_forward.around."),
    (r"^(refinement\.\d)\.ffn\.project_out\.", r"\1.feed_forward.down."),
    (r"^(refinement\.\d)\.ffn\.", r"\1.feed_forward."),
    (r"^conv_up\.", "reconstruct.up."),
    (r"^conv_down\.conv_down\.", "reconstruct.down."),
    (r"^conv_down\.conv_ext\.", "reconstruct.extend."),
    (r"^conv_down\.conv_inn\.", "reconstruct.inner."),
    (r"^conv3\.", "out."),
)
"""Official names to ours; the first rule that fits."""


def official(state: Mapping[str, Tensor]) -> "OfficialTerf":
    """The released network with the authors' weights, called as ``network(ir=, vis=)``.

    Args:
        state: the state dict of the released ``Best.pth``.

    Raises:
        BadRequest: a tensor is missing, unknown, or of another shape; the message names it.
    """
    network = Terf()
    own = network.state_dict()
    state = {key.removeprefix("module."): value for key, value in state.items()}
    theirs = {our_name(key): key for key in state}
    missing = sorted(set(own) - set(theirs))
    unknown = sorted(key for name, key in theirs.items() if name not in own)
    if missing or unknown:
        what = "; ".join(
            f"{said} {', '.join(keys[:3])}{' ...' if len(keys) > 3 else ''}"
            for said, keys in (("it lacks (by our names)", missing), ("unknown are", unknown))
            if keys
        )
        raise BadRequest(
            f"these are no weights of the released TeRF: {what}. Expected is the state dict of "
            f"its fusion network (Best.pth), {len(own)} tensors."
        )
    for name, key in theirs.items():
        if state[key].shape != own[name].shape:
            raise BadRequest(
                f"{key} is {tuple(state[key].shape)} in the file, {tuple(own[name].shape)} in "
                "the network."
            )
    network.load_state_dict({name: state[key] for name, key in theirs.items()})
    return OfficialTerf(network)


def our_name(key: str) -> str:
    """Where a tensor of the released checkpoint goes."""
    for pattern, ours in NAMES:
        changed, count = re.subn(pattern, ours, key)
        if count:
            return changed
    return key


class OfficialTerf(nn.Module):
    """The call of the released network around ours.

    Shape:
        - ir ``(B, 1, H, W)``, vis ``(B, 3, H, W)`` -> ``(B, 3, H, W)``, not clamped
    """

    def __init__(self, network: Terf) -> None:
        super().__init__()
        self.network = network

    def forward(self, *, ir: Tensor, vis: Tensor) -> Tensor:
        return self.network.raw(vis, ir)
