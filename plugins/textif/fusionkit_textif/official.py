"""The authors' weights: their names, and the call of their network."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fusionkit.batch import TextFeatures
from fusionkit.data import pad_to_multiple
from fusionkit.errors import BadRequest
from fusionkit_textif.network import TextIF

CLIP = "model_clip."
"""Prefix of the frozen CLIP in the released files; its keys are dropped."""


class Official(nn.Module):
    """``(vis=, ir=, text=)`` -> the released network's output, not limited to [0, 1].

    Shape:
        - vis, ir: ``(B, 3, H, W)``; text: ``(1 or B, 512)``, CLIP's raw text vector. Sizes that are
          no multiples of 8 are padded by reflection and cut back; the released code refuses them.
    """

    def __init__(self, network: TextIF) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)

    def forward(self, *, vis: Tensor, ir: Tensor, text: Tensor) -> Tensor:
        height, width = vis.shape[-2:]
        (vis, _), (ir, _) = (pad_to_multiple(x, self.network.multiple_of) for x in (vis, ir))
        fused = self.network.fuse(vis, ir, TextFeatures(pooled=text))
        return fused[..., :height, :width]


def load_official(state: Mapping[str, Any]) -> Official:
    """A released state dict, or the checkpoint that wraps it (``{"model": ...}``); strict.

    Raises:
        BadRequest: keys that are missing, unknown, or of another shape.
    """
    if isinstance(state.get("model"), Mapping):
        state = state["model"]
    state = {key.removeprefix("module."): value for key, value in state.items()}
    state = {key: value for key, value in state.items() if not key.startswith(CLIP)}
    with torch.device("meta"):  # no time for weights that are replaced at once
        network = TextIF()
    expected = network.state_dict()
    problems = [f"{key} is missing" for key in expected if key not in state]
    problems += [f"{key} is unknown" for key in state if key not in expected]
    problems += [
        f"{key} is {tuple(state[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in expected
        if key in state and state[key].shape != expected[key].shape
    ]
    if problems:
        raise BadRequest(
            f"these are no weights of Text-IF: {'; '.join(problems[:3])}"
            + (f"; and {len(problems) - 3} more." if len(problems) > 3 else ".")
        )
    state = {key: value.to(torch.float32, copy=True) for key, value in state.items()}
    network.load_state_dict(state, assign=True)
    return Official(network)
