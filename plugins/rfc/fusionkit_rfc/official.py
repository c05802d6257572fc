"""The authors' weights: their names, and the call of their network."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fusionkit.batch import TextFeatures
from fusionkit.errors import BadRequest
from fusionkit_rfc.controller import GRIDS, MAPS
from fusionkit_rfc.network import RFC


class Official(nn.Module):
    """The released network with CLIP and CLIPSeg taken out: their results are given.

    Shape:
        - ir ``(B, 1, H, W)``, vis ``(B, 3, H, W)`` in [0, 1]; function_embedding ``(B, 512)``, the
          raw text vector of the process phrase; clipseg_logits ``(B, 2, 1, 352, 352)`` and
          clipseg_feature ``(B, 2, 64, 22, 22)``, infrared first; targets: a phrase, ``"image"`` or
          None for each pair -> ``(B, 3, H, W)``, not below 0 and not limited above
    """

    def __init__(self, network: RFC) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)

    def forward(
        self,
        *,
        ir: Tensor,
        vis: Tensor,
        function_embedding: Tensor,
        clipseg_logits: Tensor,
        clipseg_feature: Tensor,
        targets: Sequence[str | None],
    ) -> Tensor:
        guides = as_guides(clipseg_logits, clipseg_feature, targets)
        fused, _ = self.network.fuse(vis, ir, TextFeatures(pooled=function_embedding), guides)
        return fused.relu()


def as_guides(logits: Tensor, grids: Tensor, targets: Sequence[str | None]) -> dict[str, Tensor]:
    """CLIPSeg's answers as the network's guides: ones for the whole image, zeros for no target."""
    if len(targets) != len(logits):
        raise BadRequest(f"{len(targets)} targets for {len(logits)} pairs: give one per pair.")
    maps = logits.flatten(1, 2).sigmoid()
    whole = torch.tensor([target == "image" for target in targets], device=maps.device)
    none = torch.tensor([target is None for target in targets], device=maps.device)
    whole, none = whole[:, None, None, None], none[:, None, None, None]
    maps = torch.where(whole, 1.0, maps).masked_fill(none, 0)
    return {MAPS: maps, GRIDS: grids.flatten(1, 2).masked_fill(none, 0)}


def load_official(state: Mapping[str, Any]) -> Official:
    """The trained parameters, or the checkpoint around them (``model_state_dict``).

    CLIP and CLIPSeg are frozen and not in the file.

    Raises:
        BadRequest: keys that are missing, unknown, or of another shape.
    """
    if isinstance(state.get("model_state_dict"), Mapping):
        state = state["model_state_dict"]
    state = {key.removeprefix("module."): value for key, value in state.items()}
    with torch.device("meta"):  # no time for weights that are replaced at once
        network = RFC()
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
            f"these are no weights of RFC: {'; '.join(problems[:3])}"
            + (f"; and {len(problems) - 3} more." if len(problems) > 3 else ".")
        )
    state = {key: value.to(torch.float32, copy=True) for key, value in state.items()}
    network.load_state_dict(state, assign=True)
    return Official(network)
