"""MMAIF's network: a tokenizer, and a diffusion transformer that fuses between its two halves.

Source: "MMAIF: Multi-task and Multi-degradation All-in-One for Image Fusion with Language
Guidance", ICCV 2025, arXiv 2503.14944. The authors released no code; what the paper does not state
is our choice, named in the README.
"""

import warnings
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle

from fusionkit.batch import Batch, Fused, TextFeatures
from fusionkit.errors import BadRequest, MissingWeights
from fusionkit.protocols import BuildModulation
from fusionkit_mmaif.experts import Routing
from fusionkit_mmaif.flow import CALLS, draw_times, integrate, interpolant
from fusionkit_mmaif.rope import rotation
from fusionkit_mmaif.tokenizers import FACTOR, build_tokenizer
from fusionkit_mmaif.transformer import Grid, Layer, LoraAdaLN, normalise, to_map, to_tokens

TIME_WIDTH = 256


class Transformer(nn.Module):
    """Two latents (and, for the flow, the point on the way) and a text -> one latent grid.

    Args:
        latent_channels: z of the tokenizer.
        text_dim: E, the width of the text; None for no text.
        flow: whether a third latent and a time come in.
        dim, depth, heads: D, the number of layers, heads of the attention.
        patch: p; a token stands for p x p latent places.
        hidden, experts, top_k, capacity: see :class:`~fusionkit_mmaif.experts.MoeGlu`.
        rank: of the bottleneck between condition and modulation.
        text_mode: ``adaln``: the sentence enters the condition; ``tokens``: its words stand before
            the image tokens in attention; ``both``.
        modulation: builds another way for the text to enter, one per layer. The condition then
            holds no text, and no words stand in attention.
        rope_scale: factor of all positions, see :func:`~fusionkit_mmaif.rope.rotation`.
    """

    def __init__(
        self,
        *,
        latent_channels: int,
        text_dim: int | None,
        flow: bool,
        dim: int,
        depth: int,
        heads: int,
        patch: int,
        hidden: int,
        experts: int,
        top_k: int,
        capacity: float | None,
        rank: int,
        text_mode: Literal["adaln", "tokens", "both"],
        modulation: BuildModulation | None,
        rope_scale: float,
    ) -> None:
        super().__init__()
        self.patch, self.head_dim, self.rope_scale = patch, dim // heads, rope_scale
        self.embed = nn.Conv2d((3 if flow else 2) * latent_channels, dim, patch, stride=patch)
        self.words = self.sentence = self.points = self.second = None
        if modulation is not None:
            self.points = nn.ModuleList(modulation(dim) for _ in range(depth))
            self.second = nn.Conv2d(latent_channels, dim, patch, stride=patch)
        else:
            if text_mode in ("tokens", "both"):
                self.words = nn.Linear(text_dim, dim)
            if text_mode in ("adaln", "both"):
                self.sentence = nn.Sequential(
                    nn.Linear(text_dim, dim), nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim)
                )
        # What the condition is where neither a sentence nor a time enters it.
        self.resting = nn.Parameter(0.02 * torch.randn(dim))
        self.time = (
            nn.Sequential(nn.Linear(TIME_WIDTH, dim), nn.SiLU(), nn.Linear(dim, dim))
            if flow
            else None
        )
        self.layers = nn.ModuleList(
            Layer(
                dim,
                heads,
                hidden=hidden,
                experts=experts,
                top_k=top_k,
                capacity=capacity,
                rank=rank,
                first=number == 0,
            )
            for number in range(depth)
        )
        self.last_condition = LoraAdaLN(dim, rank, vectors=2)
        self.head = nn.Linear(dim, patch * patch * latent_channels)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(
        self,
        latents: tuple[Tensor, ...],
        text: TextFeatures | None,
        guides: Mapping[str, Tensor],
        times: Tensor | None = None,
    ) -> tuple[Tensor, tuple[Routing, ...]]:
        """The head's output ``(B, z, h, w)`` and what every router decided.

        ``latents`` are visible and infrared, for the flow after the point on the way; ``times`` are
        those of the points, ``(B,)``.
        """
        x = self.embed(torch.cat(latents, 1))
        grid: Grid = tuple(x.shape[-2:])
        turn = rotation(grid, self.head_dim, self.rope_scale, x.device)
        tokens = to_tokens(x)
        condition = self._condition(text, times, len(x))
        words, mask = self._words(text, tokens)
        second = None
        if self.points is not None:
            second = to_map(normalise(to_tokens(self.second(latents[-1]))), grid)
        values, routings = None, []
        for number, layer in enumerate(self.layers):
            scheme = None
            if self.points is not None:
                point = self.points[number]

                def scheme(y: Tensor, point: nn.Module = point) -> Tensor:
                    return point(y, second.to(y.dtype), text, guides)

            tokens, words, values, routing = layer(
                tokens,
                words,
                grid,
                condition=condition,
                turn=turn,
                values_before=values,
                mask=mask,
                scheme=scheme,
            )
            routings.append(routing)
        gamma, beta = self.last_condition(condition)
        y = self.head(normalise(tokens) * (1 + gamma) + beta)
        return pixel_shuffle(to_map(y, grid).float(), self.patch), tuple(routings)

    def _condition(self, text: TextFeatures | None, times: Tensor | None, count: int) -> Tensor:
        condition = self.resting.expand(count, -1)
        if self.sentence is not None:
            condition = condition + self.sentence(_needed(text).pooled.to(self.resting.dtype))
        if self.time is not None:
            condition = condition + self.time(sinusoid(1000 * times, self.resting.dtype))
        return condition

    def _words(
        self, text: TextFeatures | None, tokens: Tensor
    ) -> tuple[Tensor | None, Tensor | None]:
        if self.words is None:
            return None, None
        said = _needed(text)
        given = said.pooled[:, None] if said.tokens is None else said.tokens
        words = self.words(given.to(self.words.weight.dtype))
        if said.tokens is None or said.mask is None:
            return words, None
        everywhere = said.mask.new_ones(tokens.shape[:2])
        return words, torch.cat([said.mask, everywhere], 1)[:, None, None]


def sinusoid(times: Tensor, dtype: torch.dtype) -> Tensor:
    """``(B,)`` -> ``(B, 256)``: cosines and sines at 128 rates from 1 down to 1/10,000."""
    half = TIME_WIDTH // 2
    rates = 10_000 ** (-torch.arange(half, device=times.device, dtype=torch.float32) / half)
    angles = times.float()[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], -1).to(dtype)


def _needed(text: TextFeatures | None) -> TextFeatures:
    if text is None:
        raise ValueError("mmaif acts by text, but the batch has none: encode prompts first.")
    return text


class LatentFusionDiT(nn.Module):
    """MMAIF: both pictures to latents, the transformer, the fused latents to a picture.

    ``variant="regression"`` gives the fused latents in one pass, as a correction of the mean of the
    two; ``"flow"`` walks from noise to them in ``sampling_steps`` steps. Colour is decoded, not
    carried over.

    In training (``objective``) a batch with the target ``fused`` yields the terms ``latent``
    (squared distance of latents, or of velocities) and ``balance`` of the routers, 1 when every
    expert serves as many, and the shares ``load_most``, ``load_least`` of the tokens that choose
    the busiest and the idlest expert first, which carry no gradient. ``Fused.maps["experts"]`` says
    how much every expert counted at every place, the mean over layers.

    Args:
        modulation: another way for the text to enter, at every layer; None is MMAIF's own (LoRA
            AdaLN and text tokens).
        text_dim: E, the width of the text.
        variant: ``regression`` or ``flow``.
        dim, depth, heads, patch, hidden, experts, top_k, capacity, rank, text_mode, rope_scale:
            see :class:`Transformer`.
        tokenizer: ``cosmos``, ``small``, ``conv`` or ``space-to-depth``, see
            :mod:`~fusionkit_mmaif.tokenizers`.
        tokenizer_options: of it.
        offline_tokenizer: takes its place, with a warning, where its weights cannot be had.
        sampler, sampling_steps: ``euler`` (one pass a step) or ``heun`` (two).
        source: where the way of the flow begins: ``noise``, or ``mean``, the mean of the two
            latents plus a tenth of the noise.
        times: ``logit-normal`` or ``uniform``, for training.
        sampling_seed: of the noise that fusing starts from; every picture starts from the same.

    Shape:
        - visible ``(B, 3, H, W)``, infrared ``(B, 1, H, W)`` -> ``(B, 3, H, W)``; H and W multiples
          of 8 p (the host pads).
    """

    paper = "MMAIF, ICCV 2025, arXiv 2503.14944"
    modulation_points = ("layers",)
    multiple_of = 16
    min_size = 8

    def __init__(
        self,
        *,
        modulation: BuildModulation | None = None,
        text_dim: int | None,
        variant: Literal["regression", "flow"] = "regression",
        dim: int = 64,
        depth: int = 2,
        heads: int = 4,
        patch: int = 2,
        hidden: int = 64,
        experts: int = 4,
        top_k: int = 2,
        capacity: float | None = None,
        rank: int = 8,
        text_mode: Literal["adaln", "tokens", "both"] = "both",
        rope_scale: float = 1.0,
        tokenizer: str = "small",
        tokenizer_options: Mapping[str, Any] | None = None,
        offline_tokenizer: str | None = None,
        sampler: Literal["euler", "heun"] = "euler",
        sampling_steps: int = 20,
        source: Literal["noise", "mean"] = "noise",
        times: Literal["logit-normal", "uniform"] = "logit-normal",
        sampling_seed: int = 0,
    ) -> None:
        super().__init__()
        for option, value, known in (
            ("variant", variant, ("regression", "flow")),
            ("text_mode", text_mode, ("adaln", "tokens", "both")),
            ("sampler", sampler, tuple(CALLS)),
            ("source", source, ("noise", "mean")),
            ("times", times, ("logit-normal", "uniform")),
        ):
            if value not in known:
                raise BadRequest(f"mmaif: {option} is one of {', '.join(known)}, not {value!r}.")
        if dim % (4 * heads):
            raise BadRequest(
                f"mmaif: a width of {dim} does not give {heads} heads a multiple of 4 numbers "
                "each, which positions in two dimensions need."
            )
        if modulation is None and text_dim is None:
            raise BadRequest("mmaif reads text, but its recipe has no encoder: name one.")
        if sampling_steps < 1:
            raise BadRequest(f"mmaif: sampling_steps is at least 1, not {sampling_steps}.")
        self.variant, self.source, self.times = variant, source, times
        self.sampler, self.sampling_steps = sampler, sampling_steps
        self.sampling_seed = sampling_seed
        self.tokenizer = _tokenizer(tokenizer, tokenizer_options, offline_tokenizer)
        self.multiple_of = FACTOR * patch
        self.modulation_points = tuple(f"layers.{number}" for number in range(depth))
        self.layers = tuple(
            f"transformer.layers.{number}.mixer" for number in sorted({0, depth // 2, depth - 1})
        )
        self.transformer = Transformer(
            latent_channels=self.tokenizer.latent_channels,
            text_dim=text_dim,
            flow=variant == "flow",
            dim=dim,
            depth=depth,
            heads=heads,
            patch=patch,
            hidden=hidden,
            experts=experts,
            top_k=top_k,
            capacity=capacity,
            rank=rank,
            text_mode=text_mode,
            modulation=modulation,
            rope_scale=rope_scale,
        )

    def train(self, mode: bool = True) -> "LatentFusionDiT":
        """The tokenizer stays as it is, whatever the transformer does."""
        super().train(mode)
        self.tokenizer.eval()
        return self

    def forward(self, batch: Batch) -> Fused:
        latents = self.encode(batch)
        if self.variant == "regression":
            change, routings = self.transformer(latents, batch.text, batch.guides)
            found = mean(latents) + change
        else:
            routings = ()

            def velocity(z: Tensor, t: Tensor) -> Tensor:
                nonlocal routings
                v, routings = self.transformer((z, *latents), batch.text, batch.guides, t)
                return v

            start = self.start(latents, self._fixed_noise(latents[0]))
            found = integrate(velocity, start, self.sampling_steps, self.sampler)
        return self._fused(self.decode(found), routings, found)

    def objective(self, batch: Batch, *, picture: bool = True) -> Fused:
        """One pass with the terms of training; see the class. Draws times and noise.

        Args:
            batch: with the target ``fused``.
            picture: decode what was found, with gradient; else the picture is the target, for
                losses that need none.
        """
        if "fused" not in batch.targets:
            raise ValueError(
                "mmaif learns from a fused target, which this batch lacks: its task makes one."
            )
        latents = self.encode(batch)
        with torch.no_grad():
            target = self._latent(batch.targets["fused"])
        if self.variant == "regression":
            change, routings = self.transformer(latents, batch.text, batch.guides)
            found = mean(latents) + change
            distance = (found - target).square().mean()
        else:
            times = draw_times(len(target), self.times, target.device)
            start = self.start(latents, torch.randn_like(target))
            point, wanted = interpolant(start, target, times)
            v, routings = self.transformer((point, *latents), batch.text, batch.guides, times)
            distance = (v - wanted).square().mean()
            found = point + (1 - times)[:, None, None, None] * v
        image = self.decode(found) if picture else batch.targets["fused"]
        fused = self._fused(image, routings, found)
        return Fused(image=image, maps=fused.maps, terms={"latent": distance, **fused.terms})

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Standardised latents of the visible and of the infrared picture, ``(B, z, h, w)`` each.

        The infrared picture goes in as three equal channels.
        """
        infrared = batch.infrared.expand(-1, 3, -1, -1)
        with torch.no_grad():
            visible, infrared = self._latent(torch.cat([batch.visible, infrared])).chunk(2)
        return visible, infrared

    def _latent(self, image: Tensor) -> Tensor:
        return self.tokenizer.encode(2 * image - 1).float()

    def decode(self, latent: Tensor) -> Tensor:
        """The picture of latents, in [0, 1] unless training."""
        image = (self.tokenizer.decode(latent).float() + 1) / 2
        return image if self.training else image.clamp(0, 1)

    def start(self, latents: tuple[Tensor, Tensor], noise: Tensor) -> Tensor:
        """Where the way of the flow begins."""
        return noise if self.source == "noise" else mean(latents) + 0.1 * noise

    def _fixed_noise(self, like: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(self.sampling_seed)
        return torch.randn(like.shape[1:], generator=generator).to(like).expand_as(like)

    def _fused(self, image: Tensor, routings: tuple[Routing, ...], found: Tensor) -> Fused:
        patch = self.transformer.patch
        grid = found.shape[-2] // patch, found.shape[-1] // patch
        weights = torch.stack([routing.weights.detach() for routing in routings]).mean(0)
        loads = torch.stack([routing.load for routing in routings])
        return Fused(
            image=image,
            maps={"experts": to_map(weights, grid)},
            terms={
                "balance": torch.stack([routing.balance for routing in routings]).mean(),
                "load_most": loads.max(),
                "load_least": loads.min(),
            },
        )


def mean(latents: tuple[Tensor, ...]) -> Tensor:
    """Of the two pictures' latents."""
    return sum(latents) / len(latents)


def _tokenizer(name: str, options: Mapping[str, Any] | None, offline: str | None) -> nn.Module:
    try:
        return build_tokenizer(name, options)
    except MissingWeights as error:
        if offline is None or offline == name:
            raise
        warnings.warn(
            f"mmaif: {error} Until then pictures go through the tokenizer {offline!r}, which is "
            "not the paper's: a network trained with one does not work with the other.",
            stacklevel=3,
        )
        return build_tokenizer(offline)
