"""The authors' checkpoints under their own key names, read into :class:`TextFusion`."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fusionkit.batch import TextFeatures
from fusionkit.errors import BadRequest
from fusionkit_textfusion.network import TextFusion

BLOCK = "layer1.blocks.0"

MODULES = {
    "patch_embed.proj": "embed_visible.conv",
    "patch_embed2.proj": "embed_infrared.conv",
    f"{BLOCK}.attn.QK": "block.visible.questions",
    f"{BLOCK}.attn.ass_QK": "block.infrared.questions",
    f"{BLOCK}.attn.V": "block.visible.values",
    f"{BLOCK}.attn.ass_V": "block.infrared.values",
    f"{BLOCK}.attn.conv": "block.visible.local",
    f"{BLOCK}.attn.conv_ass": "block.infrared.local",
    f"{BLOCK}.attn.proj": "block.visible.projection",
    f"{BLOCK}.attn.proj_ass": "block.infrared.projection",
    f"{BLOCK}.attn.attn.meta.0": "block.attention.meta.0",
    f"{BLOCK}.attn.attn.meta.2": "block.attention.meta.2",
    f"{BLOCK}.mlp.mlp.0": "block.visible.feed_forward.mlp.0",
    f"{BLOCK}.mlp.mlp.2": "block.visible.feed_forward.mlp.2",
    f"{BLOCK}.mlp_ass.mlp.0": "block.infrared.feed_forward.mlp.0",
    f"{BLOCK}.mlp_ass.mlp.2": "block.infrared.feed_forward.mlp.2",
    "fuse_text_image.mlp_vis.0": "affine.visible.0",
    "fuse_text_image.mlp_vis.2": "affine.visible.2",
    "fuse_text_image.mlp_ir.0": "affine.infrared.0",
    "fuse_text_image.mlp_ir.2": "affine.infrared.2",
    "patch_unembed1.proj.0": "out",
}
"""Official module -> ours, for modules whose parameters are called alike."""

NORMS = {f"{BLOCK}.norm1": "block.visible.norm", f"{BLOCK}.ass_norm1": "block.infrared.norm"}
NORM_KEYS = {
    "weight": "weight",
    "bias": "bias",
    "meta1.weight": "rescale_weight",
    "meta1.bias": "rescale_bias",
    "meta2.weight": "rebias_weight",
    "meta2.bias": "rebias_bias",
}

IDLE = {
    "vt_features_fusion.mlp.0.weight": (4, 24, 1, 1),
    "vt_features_fusion.mlp.2.weight": (48, 4, 1, 1),
    "patch_merge1.proj.weight": (48, 24, 2, 2),
    "patch_merge1.proj.bias": (48,),
    f"{BLOCK}.attn.ass_QK.weight": (48, 24, 1, 1),
    f"{BLOCK}.attn.ass_QK.bias": (48,),
}
"""In the released file, but never called by the released code: checked, then left out."""
TABLE = f"{BLOCK}.attn.attn.relative_positions"
"""A constant that the file carries along; some dumps leave it out."""


def official(
    state: Mapping[str, Tensor], *, infrared_attention: str = "visible"
) -> "OfficialTextFusion":
    """The released network with the authors' weights, called as ``network(vis=, ir=, text=)``.

    Raises:
        BadRequest: a tensor is missing, unknown, or of another shape; the message names it.
    """
    return OfficialTextFusion(official_network(state, infrared_attention=infrared_attention))


def official_network(
    state: Mapping[str, Tensor], *, infrared_attention: str = "visible"
) -> TextFusion:
    """The same weights in our network."""
    state = dict(state.get("state_dict", state) if isinstance(state, Mapping) else state)
    state = {key.removeprefix("module."): value for key, value in state.items()}
    text = state.get("fuse_text_image.mlp_ir.2.weight")
    network = TextFusion(
        text_dim=512 if text is None else len(text), infrared_attention=infrared_attention
    )
    own = network.state_dict()
    names = official_names(own)
    expected = set(names) | set(IDLE) | {TABLE}
    missing = sorted(expected - set(state) - {TABLE})
    unknown = sorted(set(state) - expected)
    if missing or unknown:
        what = "; ".join(
            f"{said} {', '.join(keys[:3])}{' ...' if len(keys) > 3 else ''}"
            for said, keys in (("it lacks", missing), ("unknown are", unknown))
            if keys
        )
        raise BadRequest(
            f"these are no weights of the released TextFusion: {what}. Expected is a file such as "
            "LLVIP_pretrained.model: a plain state dict of 54 tensors."
        )
    shapes = {key: own[name].shape for key, name in names.items()} | IDLE
    for key, shape in shapes.items():
        if state[key].numel() != torch.Size(shape).numel():
            raise BadRequest(
                f"{key} is {tuple(state[key].shape)} in the file, {tuple(shape)} in the network."
            )
    network.load_state_dict({name: state[key].reshape(shapes[key]) for key, name in names.items()})
    return network


def official_names(own: Mapping[str, Tensor]) -> dict[str, str]:
    """Official key -> our key, for every parameter that the network has."""
    names = {
        f"{theirs}.{leaf}": f"{ours}.{leaf}"
        for theirs, ours in MODULES.items()
        for leaf in ("weight", "bias")
        if f"{ours}.{leaf}" in own
    }
    for theirs, ours in NORMS.items():
        names |= {f"{theirs}.{key}": f"{ours}.{leaf}" for key, leaf in NORM_KEYS.items()}
    return names


class OfficialTextFusion(nn.Module):
    """The call of the released network around ours.

    Shape:
        - vis, ir ``(B, 1, H, W)`` in [0, 1], text ``(1 or B, 512)`` -> ``(B, 1, H, W)`` in (0, 1)
    """

    def __init__(self, network: TextFusion) -> None:
        super().__init__()
        self.network = network

    def forward(self, *, vis: Tensor, ir: Tensor, text: Tensor) -> Tensor:
        return self.network.fuse_luma(vis, ir, TextFeatures(pooled=text))
