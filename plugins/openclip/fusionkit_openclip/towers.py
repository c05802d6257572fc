"""Features of patches, in the joint space, out of open_clip's own image towers.

A CLIP tower is trained on one vector per picture. The states of its patches after the last block
have travelled far from their place; localisation is better when the last attention is undone and
every patch keeps its own value:

    C. Zhou, C. C. Loy, B. Dai, "Extract Free Dense Labels from CLIP" (MaskCLIP), ECCV 2022:
    the last block's attention output is replaced by the output projection of the value
    projection; residual, feed-forward part, final norm and projection stay. In a ResNet the
    attention pool is treated so and becomes two 1x1 convolutions.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import interpolate

from fusionkit.errors import BadRequest

DENSE = ("value", "tokens", "none")


class Tower(Protocol):
    """An image tower that can be asked for one vector per picture, per patch, or both."""

    dense: str
    """``value``, ``tokens`` or ``none``."""
    stride: int
    """Input sides must be multiples of this; one patch covers so many input pixels."""

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Pooled ``(B, D)`` and patches ``(B, D, h, w)`` of one pass."""

    def pooled(self, x: Tensor) -> Tensor:
        """``(B, D)``, exactly the model's own image embedding."""

    def patches(self, x: Tensor) -> Tensor:
        """``(B, D, h, w)`` for input of any size."""


def make_tower(model: nn.Module, name: str, dense: str | None) -> Tower:
    """The tower of an open_clip model; ``dense=None`` takes the best it can give.

    Raises:
        BadRequest: that kind of dense features does not exist for this tower.
    """
    from open_clip.modified_resnet import ModifiedResNet
    from open_clip.transformer import VisionTransformer

    if dense is not None and dense not in DENSE:
        raise BadRequest(f"dense is {dense!r}; use one of {', '.join(DENSE)}.", known=DENSE)
    visual = model.visual
    plain_vit = isinstance(visual, VisionTransformer) and visual.attn_pool is None
    if plain_vit and len(visual.transformer.resblocks) > 1:
        return VitTower(model, dense or "value")
    if isinstance(visual, ModifiedResNet):
        if dense == "tokens":
            raise BadRequest(
                f"dense='tokens' does not exist for {name}, a ResNet: its attention pool gives one "
                "vector only; use dense='value'."
            )
        return ResNetTower(model, dense or "value")
    if dense not in (None, "none"):
        raise BadRequest(
            f"no dense features are defined for the image tower of {name} "
            f"({type(visual).__name__}); use dense='none' (text and pooled pictures work, heat "
            "maps do not) or a ViT or RN architecture with class-token or attention pooling."
        )
    return PooledTower(model)


class PooledTower:
    """A tower of any make, whose patches are out of reach: one cell covers the picture."""

    dense = "none"
    stride = 1

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def pooled(self, x: Tensor) -> Tensor:
        return self.model.encode_image(x, normalize=False)

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        pooled = self.pooled(x)
        return pooled, pooled[:, :, None, None]

    def patches(self, x: Tensor) -> Tensor:
        return self.both(x)[1]


class VitTower:
    """open_clip's VisionTransformer, at any input size: positions are interpolated.

    ``dense="value"`` is MaskCLIP's reading, ``"tokens"`` the plain patch states of the last block.
    """

    def __init__(self, model: nn.Module, dense: str) -> None:
        self.model, self.visual, self.dense = model, model.visual, dense
        if len(set(self.visual.patch_size)) > 1:
            raise BadRequest(f"patches of {self.visual.patch_size} are not square.")
        self.stride = self.visual.patch_size[0]
        self.states = _States(self.visual)

    def pooled(self, x: Tensor) -> Tensor:
        if not (x.requires_grad and torch.is_grad_enabled()):
            return self.model.encode_image(x, normalize=False)
        with _tokens_first(self.visual.transformer):
            return self.model.encode_image(x, normalize=False)

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.dense == "none":
            pooled = self.pooled(x)
            return pooled, pooled[:, :, None, None]
        found = self._read(x, intermediates_only=False)
        return found["image_features"], self._dense(found, x)

    def patches(self, x: Tensor) -> Tensor:
        if self.dense == "none":
            return self.both(x)[1]
        return self._dense(self._read(x, intermediates_only=True, stop_early=True), x)

    def _read(self, x: Tensor, **how: Any) -> dict[str, Any]:
        """Patch states before the last block (``value``) or after it (``tokens``)."""
        blocks = len(self.visual.transformer.resblocks)
        grid = tuple(side // self.stride for side in x.shape[-2:])
        table = resize_positions(self.visual.positional_embedding, self.visual.grid_size, grid)
        how |= {
            "indices": [blocks - 2 if self.dense == "value" else blocks - 1],
            "output_fmt": "NLC",
        }
        return functional_call(self.states, {"visual.positional_embedding": table}, (x,), how)

    def _dense(self, found: dict[str, Any], x: Tensor) -> Tensor:
        (states,) = found["image_intermediates"]  # B hw C
        if self.dense == "value":
            # Read by itself, a patch can only attend to itself: attention gives back its value.
            last = self.visual.transformer.resblocks[-1]
            states = last(states.flatten(0, 1)[:, None]).view_as(states)
        states = self.visual.ln_post(states)
        if self.visual.proj is not None:
            states = states @ self.visual.proj
        grid = [side // self.stride for side in x.shape[-2:]]
        return states.transpose(1, 2).unflatten(2, grid)  # B hw D -> B D h w


class ResNetTower:
    """open_clip's ModifiedResNet; patches are the values of its attention pool."""

    stride = 32

    def __init__(self, model: nn.Module, dense: str) -> None:
        self.model, self.visual, self.dense = model, model.visual, dense

    def pooled(self, x: Tensor) -> Tensor:
        return self.model.encode_image(x, normalize=False)

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.dense == "none":
            pooled = self.pooled(x)
            return pooled, pooled[:, :, None, None]
        found = self.visual.forward_intermediates(x, indices=1)
        return found["image_features"], self._dense(found)

    def patches(self, x: Tensor) -> Tensor:
        if self.dense == "none":
            return self.both(x)[1]
        return self._dense(self.visual.forward_intermediates(x, indices=1, intermediates_only=True))

    def _dense(self, found: dict[str, Any]) -> Tensor:
        pool = self.visual.attnpool
        states = found["image_intermediates"][-1].movedim(1, -1)  # B C h w -> B h w C
        return pool.c_proj(pool.v_proj(states)).movedim(-1, 1)


@contextmanager
def _tokens_first(transformer: nn.Module) -> Iterator[None]:
    """Tokens before pictures in memory, where the model lets one choose; the same numbers.

    With pictures first, torch hands the attention's projection a view that is not contiguous, and a
    frozen weight is then copied once per picture, forward and backward: of four pictures in
    bfloat16 on a CPU, seven eighths of the time.
    """
    order = getattr(transformer, "batch_first", False)
    parts = [transformer, *(getattr(block, "attn", None) for block in transformer.resblocks)]
    if not order or not all(getattr(part, "batch_first", None) for part in parts):
        yield
        return
    for part in parts:
        part.batch_first = False
    try:
        yield
    finally:
        for part in parts:
            part.batch_first = True


class _States(nn.Module):
    """Makes ``forward_intermediates`` callable with another position table."""

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual

    def forward(self, x: Tensor, **how: Any) -> dict[str, Any]:
        return self.visual.forward_intermediates(x, **how)


def resize_positions(table: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """A position table ``(1 + h w, C)`` for another grid; the class token's row is kept.

    Bicubic with a low-pass, as open_clip does when weights are loaded at another size.
    """
    if tuple(old) == tuple(new):
        return table
    grid = table[1:].float().unflatten(0, tuple(old)).movedim(-1, 0)[None]  # hw C -> 1 C h w
    grid = interpolate(grid, new, mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([table[:1], grid[0].flatten(1).T.to(table.dtype)])
