"""The network of MTG-Fusion: two pictures and five texts in, one picture out."""

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fusionkit.batch import Batch, Fused, TextFeatures
from fusionkit.color import luma, recolor, rgb_to_ycbcr, ycbcr_to_rgb
from fusionkit.errors import BadRequest
from fusionkit.protocols import BuildModulation
from fusionkit_mtgfusion.attention import AttentionOptions
from fusionkit_mtgfusion.extractors import Reconstructor, SharedExtractor, SpecificExtractor
from fusionkit_mtgfusion.guidance import CommonGuidance, SpecificGuidance, Words, check_variant

ROLES = ("ir", "vi", "common", "ir_unique", "vi_unique")
"""The texts the network reads; a sixth, ``fused``, is read by the loss alone."""
THUMBNAIL = 64
"""Longest side of a kept text cube, whose 64 channels at full size would be 79 MB a picture."""


class SpecificExtractors(nn.Module):
    """``EA`` for the infrared and ``EB`` for the visible picture, of separate weights."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.EA = SpecificExtractor(channels)
        self.EB = SpecificExtractor(channels)

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features of both, and the sum of the log-determinants."""
        first, log_a = self.EA(a)
        second, log_b = self.EB(b)
        return first, second, log_a + log_b


class MtgFusion(nn.Module):
    """Specific and shared features, guided by texts, then reconstructed.

    Infrared and luma of the visible picture are fused to a luma; the chroma of the visible picture
    is put back. Texts come by role in ``batch.texts``; where there are none, ``batch.text`` speaks
    for each role; an empty prompt or no text at all is the zero vector, which is what the first
    stage of training knows.

    In evaluation mode ``Fused.maps`` holds ``raw`` (the unbounded luma), ``cube`` and ``reordered``
    (64 channels, 64 pixels at most on a side; of the released cube all its different vectors),
    ``nearest`` (which vector a pixel took), ``k_rows`` and ``k_columns`` (weights of the
    transform), ``d_tv``, ``d_tt``, ``gate``, ``weight_ir`` and ``weight_vi``, ``(B, 1, H, W)``.

    Source: "Multi-text guidance is important: multi-modality image fusion via large generative
    vision-language model", IJCV 2025, and the released module classes.

    Args:
        modulation: another scheme at the point ``fusion``, in place of both guidances: it is given
            the specific features and ``batch.text``; the shared features then pass unchanged.
        text_dim: D, width of the text.
        channels: C, width of all features; the release has 64.
        variant: ``released`` (default; what official weights fit) or ``described``.
        attention: ``windowed``, ``full`` (the release; its arithmetic grows with the square of the
            number of pixels), ``pooled``, or ``auto``: full up to 256 x 256 pixels, the size of
            everything in the release, windowed beyond, with a warning.
        window: side of a window, or of what is pooled.
        max_tokens: only so many tokens of a text are read; None reads all.
        mask_padding: whether padding tokens are left out; the release counts them.
        detach: keep gradients out of the text of the cube, as the release does.
        common, specific: further options of
            :class:`~fusionkit_mtgfusion.guidance.CommonGuidance` and
            :class:`~fusionkit_mtgfusion.guidance.SpecificGuidance`.

    Shape:
        - visible ``(B, 3, H, W)``, infrared ``(B, 1, H, W)`` -> ``(B, 3, H, W)``, any size
    """

    modulation_points = ("fusion",)
    layers = ("specific.EA", "specific.EB", "shared", "reconstructor.proj_in")
    min_size = 2

    def __init__(
        self,
        *,
        modulation: BuildModulation | None = None,
        text_dim: int = 768,
        channels: int = 64,
        variant: str = "released",
        attention: str = "windowed",
        window: int = 16,
        max_tokens: int | None = 32,
        mask_padding: bool = True,
        detach: bool = False,
        common: Mapping[str, Any] | None = None,
        specific: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_variant(variant)
        self.attention = options = AttentionOptions(attention, window)
        self.max_tokens, self.mask_padding = max_tokens, mask_padding
        self.specific = SpecificExtractors(channels)
        self.shared = SharedExtractor(channels, attention=options)
        self.points = None
        if modulation is None:
            self.tgce = CommonGuidance(channels, variant=variant, detach=detach, **(common or {}))
            self.tgsf = SpecificGuidance(channels, variant=variant, **(specific or {}))
            self.text_proj = nn.Linear(text_dim, channels)
        else:
            self.points = nn.ModuleDict({"fusion": modulation(channels)})
        self.reconstructor = Reconstructor(channels, attention=options)

    def forward(self, batch: Batch) -> Fused:
        visible = batch.visible
        y = luma(visible)
        if self.points is None:
            raw, parts = self.fuse(batch.infrared, y, self.words(batch))
            maps = {} if self.training else _kept(raw, parts)
        else:
            a, b, _ = self.specific(batch.infrared, y)
            common = self.shared(torch.cat([batch.infrared, y], 1))
            specific = self.points["fusion"](b, a, batch.text, batch.guides)
            raw = self.reconstructor(common, specific.to(common.dtype)).float()
            maps = {} if self.training else {"raw": raw}
        if self.training:  # values outside [0, 1] must cost, not be cut off
            chroma = rgb_to_ycbcr(visible)[:, 1:]
            return Fused(image=ycbcr_to_rgb(torch.cat([raw, chroma], 1)))
        return Fused(image=recolor(raw.clamp(0, 1), visible), maps=maps)

    def fuse(
        self, ir: Tensor, vi: Tensor, words: Mapping[str, Words]
    ) -> tuple[Tensor, dict[str, Any]]:
        """Two ``(B, 1, H, W)`` pictures under texts by role -> the raw picture, and every part.

        The parts: ``specific_a``, ``specific_b``, ``log_det``, ``shared``, ``common`` (see
        :class:`~fusionkit_mtgfusion.guidance.Common`), ``smsf_fused``, ``M_A``, ``M_B``.
        """
        if self.attention.kind == "auto" and self.attention.at(*ir.shape[-2:]) == "windowed":
            warnings.warn(
                f"mtgfusion: {ir.shape[-2]}x{ir.shape[-1]} is more than the 256x256 pixels of the "
                'release, so attention stays within windows; attention="full" reaches over the '
                "whole picture, in hours on a CPU.",
                stacklevel=2,
            )
        a, b, log_det = self.specific(ir, vi)
        shared = self.shared(torch.cat([ir, vi], 1))
        common = self.tgce(shared, words["ir"], words["vi"], words["common"])
        smsf, m_a, m_b = self.tgsf(a, b, words["ir_unique"], words["vi_unique"])
        raw = self.reconstructor(common.features.to(smsf.dtype), smsf).float()
        return raw, {
            "specific_a": a,
            "specific_b": b,
            "log_det": log_det,
            "shared": shared,
            "common": common,
            "smsf_fused": smsf,
            "M_A": m_a,
            "M_B": m_b,
        }

    def words(self, batch: Batch) -> dict[str, Words]:
        """The five texts of a batch in the width of the network."""
        return {role: self.project(self._features(batch, role)) for role in ROLES}

    def project(self, text: TextFeatures) -> Words:
        """Tokens (an encoder without tokens offers its pooled vector) in the network's width."""
        tokens = text.pooled[:, None] if text.tokens is None else text.tokens
        mask = text.mask if self.mask_padding and text.tokens is not None else None
        if self.max_tokens is not None:
            tokens = tokens[:, : self.max_tokens]
            mask = None if mask is None else mask[:, : self.max_tokens]
        if tokens.shape[-1] != self.text_proj.in_features:
            raise BadRequest(
                f"mtgfusion was built for texts of width {self.text_proj.in_features}, but these "
                f"are {tokens.shape[-1]} wide; use the encoder it was trained with."
            )
        return Words(self.text_proj(tokens.to(self.text_proj.weight.dtype)), mask)

    def _features(self, batch: Batch, role: str) -> TextFeatures:
        if role in batch.texts:
            return batch.texts[role]
        if batch.text is not None and (not batch.prompts or any(batch.prompts)):
            return batch.text
        width = self.text_proj.in_features
        return TextFeatures(pooled=batch.visible.new_zeros(len(batch), width))


def _kept(raw: Tensor, parts: Mapping[str, Any]) -> dict[str, Tensor]:
    """The parts that are shown and stored, each of bounded size."""
    common = parts["common"]
    height, width = raw.shape[-2:]
    thin = slice(None, None, -(-height // THUMBNAIL)), slice(None, None, -(-width // THUMBNAIL))
    return {
        "raw": raw,
        "cube": common.cube,
        "reordered": common.reordered[:, thin[0], thin[1]].permute(0, 3, 1, 2),
        "nearest": common.index[:, None].to(raw.dtype),
        **{name: values[:, None] for name, values in common.weights.items()},
        "weight_ir": parts["M_A"].float(),
        "weight_vi": parts["M_B"].float(),
    }


class OfficialMtgFusion(nn.Module):
    """The released layout called with the released tensors; ``network`` holds the weights.

    Attention is ``full`` up to 256 x 256 pixels, the size to which the release resizes everything,
    so that results are equal there; larger pictures, of which the release's would need terabytes,
    are attended to in windows. ``load_official(state, attention="full")`` never does that.
    """

    def __init__(self, network: MtgFusion) -> None:
        super().__init__()
        self.network = network

    def forward(
        self,
        *,
        ir: Tensor,
        vis: Tensor,
        text_ir: Tensor,
        text_vi: Tensor,
        text_common: Tensor,
        text_ir_unique: Tensor,
        text_vi_unique: Tensor,
    ) -> Tensor:
        """Pictures ``(B, 1, H, W)`` in [0, 1], texts ``(B, L, D)`` -> raw ``(B, 1, H, W)``."""
        return self.parts(
            ir=ir,
            vis=vis,
            text_ir=text_ir,
            text_vi=text_vi,
            text_common=text_common,
            text_ir_unique=text_ir_unique,
            text_vi_unique=text_vi_unique,
        )[0]

    def parts(self, *, ir: Tensor, vis: Tensor, **texts: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """The same, with every intermediate result, see :meth:`MtgFusion.fuse`."""
        words = {role: Words(self.network.text_proj(texts[f"text_{role}"])) for role in ROLES}
        return self.network.fuse(ir, luma(vis), words)


def load_official(state: Mapping[str, Any], **options: Any) -> OfficialMtgFusion:
    """A state dict with the released key names -> the network that holds it.

    The release contains no trained weights; this reads what its training program would write: a
    plain state dict, also inside ``{"model": ...}`` or with ``module.`` before every key. Missing
    or foreign keys and other shapes are an error that names the first of them.

    Args:
        state: keys ``specific.``, ``shared.``, ``tgce.``, ``tgsf.``, ``reconstructor.`` and
            ``text_proj.`` (the projection of the texts, which the release lacks).
        options: of :class:`MtgFusion`, over the released ones.
    """
    for wrapper in ("model", "state_dict", "model_state_dict", "network"):
        if isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    tensors = {key.removeprefix("module."): torch.as_tensor(value) for key, value in state.items()}
    if "text_proj.weight" not in tensors or tensors["text_proj.weight"].ndim != 2:
        raise BadRequest(
            "these are no weights of mtgfusion: there is no matrix text_proj.weight, the "
            f"projection of the texts; the keys begin with {sorted(tensors)[:3]}."
        )
    channels, text_dim = tensors["text_proj.weight"].shape
    defaults = {"attention": "auto", "mask_padding": False, "detach": True}
    network = MtgFusion(text_dim=text_dim, channels=channels, **(defaults | options))
    ours = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in tensors.items()}
    for problem, keys in (
        ("lack", sorted(ours.keys() - given.keys())),
        ("hold the unknown", sorted(given.keys() - ours.keys())),
        (
            "have another shape at",
            sorted(k for k in ours.keys() & given.keys() if ours[k] != given[k]),
        ),
    ):
        if keys:
            raise BadRequest(
                f"these weights do not fit mtgfusion: they {problem} {keys[0]}"
                f"{f' and {len(keys) - 1} more' if len(keys) > 1 else ''}."
            )
    network.load_state_dict(tensors)
    return OfficialMtgFusion(network.eval())
