"""The network of RFC: pictures in, features controlled four times by the instruction, picture out.

Source: "Robust Fusion Controller" (RFC), arXiv 2504.05795, and its released code (class ``Net``),
which is followed where the two differ. Names of parameters are those of the released state dict.

What differs is how the same numbers are computed without gradients: scales and shifts of the four
fusion modules are made for a band of rows, used and forgotten, where the release keeps and stacks
eight full-size maps; the decoder's inputs are put side by side a band at a time, too.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fusionkit.batch import Batch, Fused, TextFeatures
from fusionkit.devices import keep_memory
from fusionkit.protocols import BuildModulation
from fusionkit_rfc.bands import Band, Convolution, by_bands
from fusionkit_rfc.controller import (
    GRID,
    Coupling,
    DenseAffine,
    Functional,
    mask_feature,
    response,
    spatial_condition,
    upsampling,
)


class RFC(nn.Module):
    """RFC, 2.8 million parameters at its published size, all at full resolution.

    The instruction's two conditions couple into a dense control prior (gamma); each of four hybrid
    attention fusion modules (HAF) scales and shifts its features by maps read off the prior. The
    modules are the text points: another scheme is given the attended features and the features as
    they came, and the controller is then not built.

    ``Fused.maps`` has ``control``, the channel mean of the prior, and ``change``, the channel mean
    of the features before the fusion modules less that behind them: what the alignment loss
    compares. The picture is in [0, 1] outside training; :meth:`fuse` gives what is before the last
    ReLU.

    Args:
        modulation: builds the module for a text point; None is the network's own scheme.
        text_dim: width of the text; 512 in the paper.
        base: channels of the two first convolutions and of the control prior; 64 in the paper. The
            fusion modules have twice as many.
        region: channels of the region's features per modality; 32 in the paper.
        couplings: coupling modules (MCC); 3 in the paper.
        fusions: fusion modules (HAF); 4 in the paper.
        reduction: of the channel gate; 8 in the paper.

    Shape:
        - visible ``(B, 3, H, W)``, infrared ``(B, 1, H, W)`` -> ``(B, 3, H, W)``, any size
        - guides ``rfc_maps`` ``(B, 2, h, w)`` and ``rfc_grids`` ``(B, 128, h', w')``, see
          :func:`~fusionkit_rfc.controller.response`
    """

    paper = "RFC: Robust Fusion Controller, AAAI 2026"
    modulation_points = ("haf1", "haf2", "haf3", "haf4")
    layers = ("ResBlock1", "ResBlock3", "CBA1", "CBA2", "CBA3", "CBA4")

    def __init__(
        self,
        *,
        modulation: BuildModulation | None = None,
        text_dim: int = 512,
        base: int = 64,
        region: int = 32,
        couplings: int = 3,
        fusions: int = 4,
        reduction: int = 8,
    ) -> None:
        super().__init__()
        if min(couplings, fusions) < 1:
            raise ValueError(f"couplings={couplings}, fusions={fusions}: at least one of each.")
        if base < 1 or (2 * base) % reduction:
            raise ValueError(f"base={base}: twice as many must divide by reduction={reduction}.")
        wide, spatial = 2 * base, 2 * region + 2
        self.couplings, self.fusions = couplings, fusions
        self.points = None
        if modulation is None:
            self.upsampling = upsampling(GRID)
            self.mask_feature = mask_feature(GRID, region)
            self.maskconv = Convolution(spatial, base, bias=False)
            self.processmodule = Functional(text_dim, base, couplings)
            for i in range(1, couplings + 1):
                self.add_module(f"ResBlock{i}", Coupling(base, spatial))
            self.imagemoudle = DenseAffine(base, wide, fusions)
        else:
            self.points = nn.ModuleList(modulation(channels=wide) for _ in range(fusions))
        # In bfloat16 the picture would be off by more than a grey level: the first layers and the
        # last three, a seventh of the arithmetic, stay in single precision.
        self.irconv = Convolution(1, base, exact=True)
        self.viconv = Convolution(3, base, exact=True)
        for k in range(1, fusions + 1):
            self.add_module(f"CBA{k}", HybridAttention(wide, reduction))
        self.dconv1 = Convolution(wide, wide)
        for k in range(2, fusions + 2):
            self.add_module(f"dconv{k}", Convolution(2 * wide, wide, exact=k > fusions))
        self.add_module(f"dconv{fusions + 2}", Convolution(wide, base, exact=True))
        self.add_module(f"dconv{fusions + 3}", Convolution(base, 3, exact=True))
        built = dict(self.named_children())
        self.layers = tuple(name for name in type(self).layers if name in built)

    def forward(self, batch: Batch) -> Fused:
        image, maps = self.fuse(batch.visible, batch.infrared, batch.text, batch.guides)
        image = image.float().relu()
        return Fused(image=image if self.training else image.clamp(max=1), maps=maps)

    def fuse(
        self,
        visible: Tensor,
        infrared: Tensor,
        text: TextFeatures | None,
        guides: Mapping[str, Tensor],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The picture before its last ReLU, ``(B, 3, H, W)``, and the maps of the alignment."""
        if visible.device.type == "cpu":
            keep_memory()  # a band's maps come and go hundreds of times
        visible, infrared = (
            x.contiguous(memory_format=torch.channels_last) for x in (visible, infrared)
        )
        text = None if text is None else text.expand(len(visible))
        maps: dict[str, Tensor] = {}
        prior = None
        if self.points is None:
            prior = self.control(text, guides, visible)
            maps["control"] = prior.float().mean(1, keepdim=True)
        features = [torch.cat([self.irconv(infrared).relu_(), self.viconv(visible).relu_()], 1)]
        if prior is not None:  # what is summed up from here on stays in full precision
            features = [features[0].float()]
        for k in range(1, self.fusions + 1):
            features.append(self.haf(k, features[-1], prior, text, guides))
        before, after = (x.float().mean(1, keepdim=True) for x in (features[0], features[-1]))
        maps["change"] = before - after
        del prior
        return self.decode(features), maps

    def control(
        self, text: TextFeatures | None, guides: Mapping[str, Tensor], like: Tensor
    ) -> Tensor:
        """gamma, ``(B, base, H, W)``: the instruction for every pixel of ``like``."""
        if text is None:
            raise ValueError("rfc acts by text, but the batch has none: encode prompts first.")
        scale, shift = self.processmodule(text.pooled)
        beta = self.spatial(guides, like)
        m = self.maskconv(beta).tanh().float()
        for i in range(self.couplings):
            m = self.get_submodule(f"ResBlock{i + 1}")(m, beta, scale[i], shift[i])
        return m

    def spatial(self, guides: Mapping[str, Tensor], like: Tensor) -> Tensor:
        """beta, ``(B, 2 region + 2, H, W)``."""
        size = tuple(like.shape[-2:])
        weight = self.maskconv.weight.dtype
        given = (x.to(weight) for x in response(guides, like))
        return spatial_condition(*given, size, self.upsampling, self.mask_feature)

    def haf(
        self,
        k: int,
        x: Tensor,
        prior: Tensor | None,
        text: TextFeatures | None,
        guides: Mapping[str, Tensor],
    ) -> Tensor:
        """The k-th fusion module, k from 1: attended features, controlled, plus the features."""
        attention = self.get_submodule(f"CBA{k}")
        if prior is None:
            point = self.points[k - 1]
            return attention(x, lambda band, attended: point(attended, x, text, guides))

        def controlled(band: Band, attended: Tensor) -> Tensor:
            scale, shift = self.imagemoudle(prior, k, band)
            return torch.addcmul(shift + band.of(x), attended, scale + 1)

        return attention(x, controlled, banded=True)

    def decode(self, features: list[Tensor]) -> Tensor:
        """Seven convolutions, joined by the features of every fusion module; empties the list."""
        x = self._convolved(self.dconv1, features.pop())
        for k in range(2, self.fusions + 2):
            x = self._convolved(self.get_submodule(f"dconv{k}"), features.pop(), x)
        x = self._convolved(self.get_submodule(f"dconv{self.fusions + 2}"), x)
        return self.get_submodule(f"dconv{self.fusions + 3}")(x)

    @staticmethod
    def _convolved(layer: Convolution, *maps: Tensor) -> Tensor:
        channels = sum(x.shape[1] for x in maps)
        return by_bands(maps[0], channels, lambda band: layer(*maps, band=band).relu_())


class HybridAttention(nn.Module):
    r"""A gate per channel, then a gate per pixel (CBAM), and what is done with the gated features.

    .. math:: G = F\,\sigma(M(\max_{hw} F) + M(\overline{F})), \qquad
              P = G\,\sigma(C_7 * [\max_c G, \overline{G}^c]), \qquad F' = c(P)

    with one perceptron M for both pools, a 7x7 convolution C_7 with bias, and c that which
    controls: P w + b + P + F in RFC.

    Shape:
        - F, F' ``(B, C, H, W)``
    """

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        inner = channels // reduction
        self.mlp = nn.Sequential(
            nn.Conv2d(channels, inner, 1), nn.ReLU(), nn.Conv2d(inner, channels, 1)
        )
        self.convs = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x: Tensor, control, *, banded: bool = False) -> Tensor:
        """``control(band, P of the band)`` is asked for each band, or once for the whole map."""
        with torch.autocast(x.device.type, enabled=False):  # two pools and one channel: exact
            x = x.to(self.convs.weight.dtype)
            pools = x.amax((2, 3), keepdim=True), x.mean((2, 3), keepdim=True)
            channel = (self.mlp(pools[0]) + self.mlp(pools[1])).sigmoid()

            def summary(band: Band) -> Tensor:
                gated = band.of(x) * channel
                return torch.cat([gated.amax(1, keepdim=True), gated.mean(1, keepdim=True)], 1)

            pixel = self.convs(by_bands(x, x.shape[1], summary)).sigmoid()

        def attended(band: Band) -> Tensor:
            return control(band, band.of(x) * channel * band.of(pixel))

        if banded:
            return by_bands(x, 2 * x.shape[1], attended)
        height = x.shape[2]
        return attended(Band(0, height, height))
