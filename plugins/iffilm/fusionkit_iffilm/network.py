r"""The network of IF-FILM: two streams, three text-guided blocks, one decoder.

Source: Z. Zhao et al., "Image Fusion via Vision-Language Model", ICML 2024, figure 2. The layers
follow the released code: three blocks, a decoder of three Restormer blocks, grey pictures in and
out.
"""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from fusionkit.batch import Batch, Fused, TextFeatures
from fusionkit.color import luma, recolor
from fusionkit.devices import keep_memory
from fusionkit.errors import BadRequest, did_you_mean
from fusionkit.protocols import BuildModulation
from fusionkit_iffilm.restormer import RestormerBlock
from fusionkit_iffilm.scan import GRID, WIDTH, Scan, ScanGate, maps_of, paint, resize, token_weight

SIDES = ("infrared", "visible")
"""The two streams; images A and B of the paper in its infrared-visible task."""
SHORT = ("ir", "vi")
"""Kinds of the two paragraphs in ``Batch.texts``, in the order of the streams."""
MAPS = ("attention", "gate", "energy", "tokens", "channels")
"""What :attr:`IfFilm.keep` may name, see :meth:`IfFilm.forward`."""


class IfFilm(nn.Module):
    """IF-FILM.

    Args:
        modulation: builds the module for a text point; None is the network's own scheme.
        text_dim: D, the width of the text tokens; 768 in the paper.
        channels: C, the depth of the streams.
        blocks: number of text-guided blocks.
        grid: the fixed grid of the text's attention.
        stretch: spread each fused grey picture over [0, 1] at test time, as the released test
            script does; not in training.
        keep: which maps leave in ``Fused.maps`` at test time.

    Shape:
        - visible ``(B, 3, H, W)``, infrared ``(B, 1, H, W)`` -> ``(B, 3, H, W)``; any H and W

    The network fuses grey pictures: the luma of the visible one goes in, and its chroma is put back
    (our extension; everything released is grey).

    Another scheme at the three points is called with both streams of a block and returns one map,
    which both streams then take for what the text found in them. So the streams meet there, which
    they never do under the network's own scheme.
    """

    modulation_points = ("block1", "block2", "block3")
    layers = (
        *(f"blocks.{i}.{side}.restormer" for i in range(3) for side in SIDES),
        "decoder.restormer1",
        "decoder.restormer3",
    )

    def __init__(
        self,
        *,
        modulation: BuildModulation | None = None,
        text_dim: int | None = 768,
        channels: int = 32,
        grid: Sequence[int] = GRID,
        stretch: bool = False,
        keep: Sequence[str] = ("attention", "gate", "energy"),
    ) -> None:
        super().__init__()
        if text_dim is None and modulation is None:
            raise BadRequest("iffilm reads text: its recipe must name an encoder.")
        if unknown := [name for name in keep if name not in MAPS]:
            raise BadRequest(
                f"iffilm keeps no map {unknown[0]!r}.{did_you_mean(unknown[0], MAPS)} "
                f"It keeps {', '.join(MAPS)}."
            )
        self.grid, self.stretch, self.keep = tuple(grid), stretch, tuple(keep)
        self.text_process = None if modulation is not None else nn.Linear(text_dim, WIDTH)
        self.blocks = nn.ModuleList(
            TextGuidedBlock(
                1 if i == 0 else channels,
                channels,
                TwoScans(channels, self.grid) if modulation is None else modulation(channels),
            )
            for i in range(len(self.modulation_points))
        )
        self.decoder = Decoder(channels)

    def forward(self, batch: Batch) -> Fused:
        """Fuse a batch.

        Maps, outside training, by block and stream (``block1.infrared.attention``):

        ``attention`` ``(B, 1, h, w)``: how much the strip at a place was attended to, mean over
        tokens, heads and channels, 1 being even attention. ``gate`` ``(B, 1, h, w)``: the pattern
        that multiplied the map. ``energy`` ``(B, 1, h, w)``: by how much the map changed.
        ``tokens`` ``(B, L, h, w)``: the attention of every token. ``channels`` ``(B, C, h, w)``:
        the attention per channel. A strip is 256 successive pixels of a row-by-row scan,
        so no map of attention is sharper than that across.
        """
        text = joined_text(batch)
        grey, maps = self.fuse_grey(batch.infrared, luma(batch.visible), text, guides=batch.guides)
        if self.stretch and not self.training:
            grey = stretch(grey)
        grey = grey.float()
        if self.training:
            return Fused(image=recolor(grey, batch.visible), maps={"grey": grey})
        return Fused(image=recolor(grey, batch.visible), maps={"grey": grey} | maps)

    def fuse_grey(
        self,
        infrared: Tensor,
        visible: Tensor,
        text: TextFeatures | Tensor | None,
        guides: dict | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The released network: two grey pictures ``(B, 1, H, W)`` -> one in (0, 1), and the maps.

        ``text`` are features, or tokens ``(B, L, D)`` alone.
        """
        if infrared.device.type == "cpu":
            keep_memory()  # dozens of maps as large as the picture come and go
        asked = weight = None
        if self.text_process is not None:
            tokens, mask = self._tokens(text, infrared)
            asked, weight = self.text_process(tokens), token_weight(tokens, mask)
        streams, maps = (infrared, visible), {}
        for number, block in enumerate(self.blocks, 1):
            streams, scans = block(*streams, text, asked, weight, guides or {})
            if not self.training:
                for side, (feature, scan, module) in zip(SIDES, scans, strict=False):
                    found = self._maps(feature, scan, module, asked)
                    maps |= {f"block{number}.{side}.{name}": m for name, m in found.items()}
        return torch.sigmoid(self.decoder(*streams).float()), maps

    def _tokens(
        self, text: TextFeatures | Tensor | None, like: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        if isinstance(text, Tensor):
            return text, None
        if text is None:
            warnings.warn(
                "iffilm was given no text and fuses with zeros in its place; compose paragraphs "
                "or give stored features.",
                stacklevel=2,
            )
            return like.new_zeros(len(like), 1, self.text_process.in_features), None
        return _tokens_of(text)

    def _maps(
        self, feature: Tensor, scan: Scan, module: ScanGate, asked: Tensor
    ) -> dict[str, Tensor]:
        places = self.grid[0] * self.grid[1] // WIDTH
        found = dict(maps_of(scan, self.grid))
        if "tokens" in self.keep:
            rows = module.per_token(feature, asked).float()
            rows = rows.unflatten(2, (-1, places)).mean(2) * rows.shape[2]
            found["tokens"] = paint(rows, self.grid)
        if "channels" in self.keep:
            shares = scan.attention.float().mean(1)
            found["channels"] = paint(
                shares.unflatten(1, (-1, places)) * shares.shape[1], self.grid
            )
        return {name: found[name] for name in self.keep}


class TextGuidedBlock(nn.Module):
    """One block of both streams (``restormerca`` in the released code).

    In each stream: 3x3 convolution, Restormer block, the text's contribution, and a 1x1 convolution
    over features and contribution together.

    Args:
        channels_in: of each stream before the block.
        channels: of each stream after it.
        point: what the text does: the network's own :class:`TwoScans`, or any modulation.
    """

    def __init__(self, channels_in: int, channels: int, point: nn.Module) -> None:
        super().__init__()
        self.infrared = Stream(channels_in, channels)
        self.visible = Stream(channels_in, channels)
        self.point = point

    def forward(
        self,
        infrared: Tensor,
        visible: Tensor,
        text: TextFeatures | None,
        asked: Tensor | None,
        weight: Tensor | None,
        guides: dict,
    ) -> tuple[tuple[Tensor, Tensor], list[tuple[Tensor, Scan, ScanGate]]]:
        features = self.infrared.features(infrared), self.visible.features(visible)
        streams = self.infrared, self.visible
        if isinstance(self.point, TwoScans):
            scans = self.point(*features, asked, weight)
            joined = tuple(
                stream.join_change(feature, scan.change)
                for stream, feature, scan in zip(streams, features, scans, strict=True)
            )
            modules = self.point.infrared, self.point.visible
            return joined, list(zip(features, scans, modules, strict=True))
        found = self.point(features[1], features[0], text, guides)
        return tuple(s.join(f, found) for s, f in zip(streams, features, strict=True)), []


class Stream(nn.Module):
    """The layers of one stream of a block, but for those of the text."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.entry = nn.Conv2d(channels_in, channels, 3, padding=1, bias=False)
        self.entry_activation = nn.PReLU()
        self.restormer = RestormerBlock(channels)
        self.merge = nn.Conv2d(2 * channels, channels, 1)
        self.merge_activation = nn.PReLU()

    def features(self, x: Tensor) -> Tensor:
        """F of the block: ``(B, C, H, W)``.

        The first convolution keeps to the precision of the weights also in mixed precision.
        """
        with torch.autocast(x.device.type, enabled=False):
            x = self.entry_activation(self.entry(x.to(self.entry.weight.dtype)))
        return self.restormer(x)

    def join(self, feature: Tensor, found: Tensor) -> Tensor:
        """Features and what the text found, by a 1x1 convolution over both."""
        return self.merge_activation(self.merge(torch.cat([feature, found.to(feature.dtype)], 1)))

    def join_change(self, feature: Tensor, change: Tensor) -> Tensor:
        """:meth:`join` of F and F + enlarged change, without making either at full size.

        W [F, F + up(D)] = (W1 + W2) F + up(W2 D): the same up to rounding, and the second product
        is taken on the smaller picture.
        """
        size = tuple(feature.shape[-2:])
        first, second = self.merge.weight.chunk(2, 1)
        joined = conv2d(feature, first + second, self.merge.bias)
        return self.merge_activation(joined.add_(resize(conv2d(change, second), size)))


class TwoScans(nn.Module):
    """The network's own text point: a scan in each stream, each with its own weights."""

    def __init__(self, channels: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.infrared = ScanGate(channels, grid)
        self.visible = ScanGate(channels, grid)

    def forward(
        self, infrared: Tensor, visible: Tensor, asked: Tensor, weight: Tensor
    ) -> tuple[Scan, Scan]:
        return self.infrared(infrared, asked, weight), self.visible(visible, asked, weight)


class Decoder(nn.Module):
    """Both streams -> logits of the fused picture ``(B, 1, H, W)``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.restormer1 = RestormerBlock(2 * channels)
        self.reduce = nn.Conv2d(2 * channels, channels, 1)
        self.restormer2 = RestormerBlock(channels)
        self.restormer3 = RestormerBlock(channels)
        self.out = nn.Conv2d(channels, 1, 1)

    def forward(self, infrared: Tensor, visible: Tensor) -> Tensor:
        x = self.restormer1(torch.cat([infrared, visible], 1))
        return self.out(self.restormer3(self.restormer2(self.reduce(x))))


def stretch(grey: Tensor) -> Tensor:
    """Each picture ``(B, 1, H, W)`` spread over [0, 1]; one of a single grey level as it is."""
    low, high = (grey.amin((1, 2, 3), keepdim=True), grey.amax((1, 2, 3), keepdim=True))
    span = high - low
    return torch.where(span > 0, (grey - low) / span.clamp_min(1e-12), grey)


def joined_text(batch: Batch) -> TextFeatures | None:
    """The text of a pair: the tokens of its paragraphs side by side, as in the paper's figure.

    Stored features (kind ``features``) go before the paragraphs of both pictures (``ir``, ``vi``),
    these before the prompt.
    """
    for names in (("features",), SHORT):
        parts = [batch.texts[name] for name in names if name in batch.texts]
        if len(parts) == 1:
            return parts[0]
        if parts:
            tokens = [_tokens_of(part) for part in parts]
            return TextFeatures(
                pooled=torch.stack([part.pooled for part in parts]).mean(0),
                tokens=torch.cat([t for t, _ in tokens], 1),
                mask=torch.cat([m for _, m in tokens], 1),
            )
    return batch.text


def _tokens_of(text: TextFeatures) -> tuple[Tensor, Tensor]:
    """Tokens and which of them are real; without tokens the sentence is the only one."""
    tokens = text.pooled[:, None] if text.tokens is None else text.tokens
    mask = None if text.tokens is None else text.mask
    return tokens, torch.ones_like(tokens[..., 0], dtype=torch.bool) if mask is None else mask
