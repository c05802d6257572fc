"""The authors' state dict in our network: other names, the same numbers.

Released files hold it under ``model`` with every key prefixed ``module.`` (training saved a
data-parallel wrapper); both are undone.
"""

import re
from collections.abc import Mapping

from torch import Tensor, nn

from fusionkit.errors import BadRequest
from fusionkit_iffilm.network import IfFilm

RESTORMER = (
    (r"norm1\.body\.", "attention.norm."),
    (r"norm2\.body\.", "feed_forward.norm."),
    (r"attn\.qkv_dwconv\.", "attention.depthwise."),
    (r"attn\.project_out\.", "attention.out."),
    (r"attn\.", "attention."),
    (r"ffn\.project_in\.", "feed_forward.into."),
    (r"ffn\.dwconv\.", "feed_forward.depthwise."),
    (r"ffn\.project_out\.", "feed_forward.out."),
)
"""Parts of a Restormer block: the released name, then ours."""

STREAM = (
    (r"conv{0}1\.", "{1}.entry."),
    (r"prelu{0}1\.", "{1}.entry_activation."),
    (r"restormer{0}1\.", "{1}.restormer."),
    (r"imagef2textf{0}1\.conv\.", "point.{1}.into."),
    (r"cross_attentionA{2}\.multihead_attn\.", "point.{1}.attention."),
    (r"conv{0}2\.", "point.{1}.back."),
    (r"prelu{0}2\.", "point.{1}.activation."),
    (r"conv{0}3\.", "{1}.merge."),
    (r"prelu{0}3\.", "{1}.merge_activation."),
)
"""Parts of one stream of a block. The attention of stream B is called A2."""

OUTSIDE = (
    (r"^text_process\.conv\.", "text_process."),
    (r"^restormer(\d)\.", r"decoder.restormer\1."),
    (r"^conv1\.", "decoder.reduce."),
    (r"^conv2\.", "decoder.out."),
)


class Released(nn.Module):
    """IF-FILM with given weights, called as the released code is.

    Shape:
        - ir, vis ``(B, 1, H, W)`` in [0, 1], text ``(B, L, 768)`` -> ``(B, 1, H, W)`` in (0, 1)
    """

    def __init__(self, network: IfFilm) -> None:
        super().__init__()
        self.network = network

    def forward(self, ir: Tensor, vis: Tensor, text: Tensor) -> Tensor:
        return self.network.fuse_grey(ir, vis, text)[0]


def official(state: Mapping[str, Tensor]) -> Released:
    """The released network from its state dict, or from the content of a released file.

    Raises:
        BadRequest: keys that are missing, unknown, or of another shape.
    """
    state = state.get("model", state)
    state = {name.removeprefix("module."): value for name, value in state.items()}
    if "text_process.conv.weight" not in state:
        raise BadRequest(
            "these are no weights of IF-FILM: 'text_process.conv.weight' is missing. Its files "
            "(IVF.pth, MIF.pth, MEF.pth, MFF.pth) hold a state dict under 'model'."
        )
    network = IfFilm(text_dim=state["text_process.conv.weight"].shape[1])
    ours = network.state_dict()
    renamed = {our_name(name): (name, value) for name, value in state.items()}
    missing = sorted(set(ours) - set(renamed))
    unknown = sorted(theirs for name, (theirs, _) in renamed.items() if name not in ours)
    unfit = sorted(
        f"{theirs} {tuple(value.shape)}"
        for name, (theirs, value) in renamed.items()
        if name in ours and value.numel() != ours[name].numel()
    )
    faults = {"missing (our names)": missing, "unknown": unknown, "of another size": unfit}
    if any(faults.values()):
        listed = "; ".join(
            f"{len(names)} {what}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
            for what, names in faults.items()
            if names
        )
        raise BadRequest(f"these weights do not fit IF-FILM as released: {listed}.")
    network.load_state_dict({n: value.view(ours[n].shape) for n, (_, value) in renamed.items()})
    return Released(network)


def our_name(name: str) -> str:
    """Our name of a released parameter; an unknown one is returned as it is."""
    if found := re.match(r"restormerca(\d)\.(.*)", name):
        block, rest = int(found[1]) - 1, found[2]
        for letter, side, number in (("A", "infrared", 1), ("B", "visible", 2)):
            for theirs, ours in STREAM:
                pattern = "^" + theirs.format(letter, side, number)
                if re.match(pattern, rest):
                    rest = re.sub(pattern, ours.format(letter, side, number), rest)
                    return _inside(f"blocks.{block}.{rest}")
        return name
    for theirs, ours in OUTSIDE:
        if re.match(theirs, name):
            return _inside(re.sub(theirs, ours, name))
    return name


def _inside(name: str) -> str:
    """The part after ``restormer``, where there is one, by our names."""
    before, mark, after = re.match(r"(.*?)(restormer\d?\.|$)(.*)", name).groups()
    for theirs, ours in RESTORMER:
        if mark and re.match(theirs, after):
            return before + mark + re.sub("^" + theirs, ours, after)
    return name
