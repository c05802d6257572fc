r"""The language-driven loss: in the joint space, fusion moves pictures the way the sentences move.

One sentence says what the fused picture shall be, two name the kinds of the sources. With unit
embeddings of sentences :math:`t` and pictures :math:`e` (v visible, i infrared, f fused), a fused
picture is judged by two cosines,

.. math:: D(e_f) = \tfrac12 \big(1 - \cos(e_f - e_v,\; t_f - t_v)\big)
                 + \tfrac12 \big(1 - \cos(e_f - e_i,\; t_f - t_i)\big)

Source: Y. Wang et al., "Infrared and visible image fusion with language-driven loss in CLIP
embedding space", ACM MM 2025 (arXiv 2402.16267), and its released trainer, which is followed where
the two may differ.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, interpolate

from fusionkit.batch import Batch, Fused
from fusionkit.errors import BadRequest, did_you_mean
from fusionkit.protocols import JointEncoder
from fusionkit_ldfusion.color import grey_pictures
from fusionkit_ldfusion.crops import Windows, draw_windows, entropy

SENTENCES: dict[str, str | tuple[str, ...]] = {
    "visible": "a visible gray image",
    "infrared": "an infrared image",
    "fused": "a clear image with detailed background and salient objects",
}
"""The released sentences: the kinds of the two sources, and what the fused picture shall be."""
TERMS = ("similarity", "global", "patch")
SIDE = (0.5, 0.8)
"""Side of the crops, as a share of the shorter side of the picture."""
SMALLEST = 1e-6
"""A move shorter than this has no direction: its cosine is 0 and it has no gradient."""


def unit(x: Tensor) -> Tensor:
    """Vectors of length one; those too short for a direction become zero, without gradient."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    real = length > SMALLEST
    return torch.where(real, x / torch.where(real, length, 1.0), 0.0)


def direction_cosine(fused: Tensor, source: Tensor, wanted: Tensor, kind: Tensor) -> Tensor:
    """Whether the move from source to fused is the move from kind to wanted: ``(N,)`` in [-1, 1].

    Args:
        fused, source: embeddings of pictures, ``(N, D)``.
        wanted, kind: embeddings of sentences, ``(N or 1, D)``.
    """
    moved = unit(unit(fused) - unit(source))
    asked = unit(unit(wanted) - unit(kind))
    return (moved * asked).sum(-1)


class Language:
    """The sentences of the three roles in an encoder's joint space, and pictures beside them.

    Args:
        encoder: a joint encoder; frozen, with gradients to the picture.
        sentences: by role, ``visible``, ``infrared`` and ``fused``. Of several sentences
            for a source the embeddings are averaged; of several objectives one is drawn for each
            sample. Roles that are not given keep the released sentence.
    """

    def __init__(
        self,
        encoder: JointEncoder,
        sentences: Mapping[str, str | Sequence[str]] | None = None,
    ) -> None:
        if not hasattr(encoder, "encode_image"):
            raise BadRequest(
                "the language-driven loss compares sentences with pictures, so it needs an encoder "
                "that reads both (tiny-clip, clip-vit-b-32, openclip)."
            )
        for role in sentences or {}:
            if role not in SENTENCES:
                raise BadRequest(
                    f"LDFusion has no sentence for {role!r}.{did_you_mean(role, SENTENCES)} Its "
                    f"roles are {', '.join(SENTENCES)}."
                )
        self.encoder = encoder
        self.sentences = {
            role: (given,) if isinstance(given, str) else tuple(given)
            for role, given in (SENTENCES | dict(sentences or {})).items()
        }
        if empty := [role for role, given in self.sentences.items() if not given]:
            raise BadRequest(f"LDFusion needs a sentence for {empty[0]!r}.")
        self._embedded: dict[str, Tensor] = {}
        self.side = _reading_side(encoder)

    def sentence(self, role: str) -> Tensor:
        """Embeddings of the role's sentences, ``(count, D)``, raw; encoded once."""
        if role not in self._embedded:
            found = self.encoder.encode_text(list(self.sentences[role])).pooled
            self._embedded[role] = found.detach().float()
        return self._embedded[role]

    def kind(self, role: str) -> Tensor:
        """What a source is, ``(1, D)``: the mean of its sentences."""
        return self.sentence(role).mean(0, keepdim=True)

    def objective(self, count: int) -> Tensor:
        """What each of ``count`` pictures shall be, ``(count, D)``."""
        wanted = self.sentence("fused")
        if len(wanted) == 1:
            return wanted.expand(count, -1)
        return wanted[torch.randint(len(wanted), (count,)).to(wanted.device)]

    def see(self, image: Tensor) -> Tensor:
        """Pictures ``(B, 1 or 3, H, W)`` in [0, 1] -> embeddings ``(B, D)`` float32, raw.

        Squeezed to the encoder's own square by plain bilinear interpolation (no low-pass, aspect
        not kept): all of the picture is seen, as the released trainer does.
        """
        size = (self.side, self.side)
        if image.shape[-2:] != size:
            image = interpolate(image, size, mode="bilinear", align_corners=False)
        embed = getattr(self.encoder, "embed_image", None)
        found = self.encoder.encode_image(image).pooled if embed is None else embed(image)
        return found.float()

    def cosines(
        self, fused: Tensor, visible: Tensor, infrared: Tensor, wanted: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The two cosines of D for embeddings ``(N, D)`` each: ``(N,)``, ``(N,)``."""
        return (
            direction_cosine(fused, visible, wanted, self.kind("visible")),
            direction_cosine(fused, infrared, wanted, self.kind("infrared")),
        )


class LanguageDirection:
    r"""The three language terms, from one look at everything.

    * ``similarity``: mean of :math:`\tfrac12(1-\cos(e_f,e_v)) + \tfrac12(1-\cos(e_f,e_i))`, which
      keeps the fused picture near its sources;
    * ``global``: mean of D over whole fused pictures;
    * ``patch``: mean of D over crops of the fused pictures, each against its *whole* sources. Crops
      whose sources hold too little (entropy) count as zero: on flat places CLIP paints letters. The
      mean divides by all crops.

    Sentences are encoded once, sources without gradient and once per step, crops in chunks whose
    gradient is taken at once, so that memory is that of one chunk; crops that count as zero are
    not encoded. The encoder computes in its own precision.

    Crops are drawn from torch's global generator, which is put back: they differ from step to step
    in training, where the loop seeds every step, and are the same for the same state.

    Args:
        encoder: the run's joint encoder.
        sentences: by role, see :class:`Language`.
        crops: crops per picture and step.
        entropy_min: bits that a crop of both sources must hold; 0 switches the filter off.
        terms: which terms to compute.
        chunk: crops encoded at once.

    Shape:
        - looks at ``fused.maps["luma"]`` ``(B, 1, H, W)`` where the network gives it, else at the
          luma of the fused picture; at the clean sources in ``batch.targets`` where there are any.
    """

    def __init__(
        self,
        *,
        encoder: JointEncoder,
        sentences: Mapping[str, str | Sequence[str]] | None = None,
        crops: int = 32,
        entropy_min: float = 6.0,
        terms: Sequence[str] = TERMS,
        chunk: int = 64,
    ) -> None:
        if unknown := sorted(set(terms) - set(TERMS)):
            raise BadRequest(
                f"language-direction has no term {unknown[0]!r}.{did_you_mean(unknown[0], TERMS)} "
                f"Its terms are {', '.join(TERMS)}."
            )
        if not terms or crops < 1 or chunk < 1:
            raise BadRequest("language-direction: terms, crops and chunk must be at least one.")
        self.language = Language(encoder, sentences)
        self.crops, self.entropy_min, self.chunk = crops, entropy_min, chunk
        self.terms = tuple(terms)

    def __call__(self, batch: Batch, fused: Fused) -> dict[str, Tensor]:
        with torch.autocast(batch.visible.device.type, enabled=False):
            return self._terms(*grey_pictures(batch, fused))

    def _terms(self, fused: Tensor, visible: Tensor, infrared: Tensor) -> dict[str, Tensor]:
        see = self.language.see
        with torch.no_grad():
            v, i = see(torch.cat([visible, infrared])).chunk(2)
        with torch.random.fork_rng(devices=[]):
            wanted = self.language.objective(len(fused))
            windows = _draw(self.crops, tuple(fused.shape[-2:]))
        terms = {}
        if {"similarity", "global"} & set(self.terms):
            f = see(fused)
            if "similarity" in self.terms:
                terms["similarity"] = similarity(f, v, i)
            if "global" in self.terms:
                terms["global"] = _distance(*self.language.cosines(f, v, i, wanted)).mean()
        if "patch" in self.terms:
            terms["patch"] = self._patches(fused, visible, infrared, v, i, wanted, windows)
        return terms

    def _patches(
        self,
        fused: Tensor,
        visible: Tensor,
        infrared: Tensor,
        v: Tensor,
        i: Tensor,
        wanted: Tensor,
        windows: Windows,
    ) -> Tensor:
        """The patch term; its gradient with respect to the pictures is known when it returns.

        Every crop enters the mean on its own, so the gradient is a sum over chunks. Taking each
        at once frees what the encoder kept for it.
        """
        learns = fused.requires_grad and torch.is_grad_enabled()
        leaf = fused.detach().requires_grad_(learns)
        total, gradient = fused.new_zeros(()), torch.zeros_like(fused)
        count = len(windows) * len(fused)
        step = max(1, self.chunk // len(fused))
        for start in range(0, len(windows), step):
            part = windows[start : start + step]
            rows = self._counting(part, visible, infrared).nonzero()[:, 0]
            if not len(rows):
                continue
            sample = rows % len(fused)  # crops of one window stand together, one per picture
            with torch.set_grad_enabled(learns):
                seen = self.language.see(part.cut(leaf).flatten(0, 1)[rows])
                found = self.language.cosines(seen, v[sample], i[sample], wanted[sample])
                value = _distance(*found).sum() / count
            if learns:
                gradient += torch.autograd.grad(value, leaf)[0]
            total = total + value.detach()
        return _Known.apply(fused, total, gradient) if learns else total

    def _counting(self, windows: Windows, visible: Tensor, infrared: Tensor) -> Tensor:
        """Which crops count, ``(N * B,)`` bool, crop-major."""
        count = len(windows) * len(visible)
        if self.entropy_min <= 0:
            return torch.ones(count, dtype=torch.bool, device=visible.device)
        side = (self.language.side, self.language.side)
        enough = [
            entropy(interpolate(crops, side, mode="bilinear", align_corners=False))
            > self.entropy_min
            for crops in (windows.cut(x).flatten(0, 1) for x in (visible, infrared))
        ]
        return enough[0] & enough[1]

    @torch.no_grad()
    def heatmaps(self, batch: Batch, fused: Fused) -> dict[str, tuple[tuple[str, ...], Tensor]]:
        """Where the objective is met: maps in [0, 1] by name, with the words they answer.

        Windows of half the shorter side slide over the fused picture; each is judged by the mean
        of its two cosines, as in the patch term, and a place shows the mean over the windows that
        cover it: 1 moved the way of the sentences, 0.5 across it, 0 against it. It is as coarse as
        the windows. ``objective`` shows one map for each objective; ``objective-counted`` the share
        of windows that hold enough to count in training.
        """
        grey, visible, infrared = grey_pictures(batch, fused)
        language = self.language
        v, i = language.see(torch.cat([visible, infrared])).chunk(2)
        windows = _slide(tuple(grey.shape[-2:]))
        count, words = len(grey), language.sentences["fused"]
        scores = grey.new_zeros(len(windows), count, len(words))
        counted = torch.zeros(len(windows), count, dtype=torch.bool, device=grey.device)
        step = max(1, self.chunk // count)
        for start in range(0, len(windows), step):
            part = windows[start : start + step]
            rows = slice(start, start + len(part))
            counted[rows] = self._counting(part, visible, infrared).view(len(part), count)
            seen = language.see(part.cut(grey).flatten(0, 1))
            many = (len(part), 1)
            for column, wanted in enumerate(language.sentence("fused")[:, None]):
                a, b = language.cosines(seen, v.repeat(many), i.repeat(many), wanted)
                scores[rows, :, column] = ((a + b) / 2).view(len(part), count)
        met = _spread(windows, ((1 + scores) / 2).clamp(0, 1), grey.shape[-2:])
        share = _spread(windows, counted.float()[..., None], grey.shape[-2:])
        return {"objective": (words, met), "objective-counted": (("counted",), share)}


class _Known(torch.autograd.Function):
    """A number whose gradient has been computed already."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None, None]:
        return outer * ctx.saved_tensors[0], None, None


def similarity(fused: Tensor, visible: Tensor, infrared: Tensor) -> Tensor:
    """Mean over ``(N, D)`` embeddings of half of each ``1 - cos`` with the sources."""
    return _distance(
        cosine_similarity(fused, visible, dim=-1), cosine_similarity(fused, infrared, dim=-1)
    ).mean()


def _distance(first: Tensor, second: Tensor) -> Tensor:
    return 1 - (first + second) / 2


def _draw(count: int, size: tuple[int, int]) -> Windows:
    """The crops of one step: one side for all of them."""
    low, high = SIDE
    side = int(min(size) * (low + (high - low) * float(torch.rand(()))))
    return draw_windows(count, size, max(1, side))


def _slide(size: tuple[int, int]) -> Windows:
    """Windows of half the shorter side, a quarter of themselves apart, unmoved."""
    side = max(1, min(size) // 2)
    steps = [
        torch.linspace(0, extent - side, max(2, round((extent - side) / (side / 4)) + 1)).long()
        for extent in size
    ]
    corners = torch.cartesian_prod(*steps)
    still = torch.eye(2, 3).expand(len(corners), -1, -1)
    return Windows(side, corners, still)


def _spread(windows: Windows, values: Tensor, size: Sequence[int]) -> Tensor:
    """Values ``(N, B, P)`` of windows -> at each place the mean of what covers it."""
    total = values.new_zeros(*values.shape[1:], *size)
    covered = values.new_zeros(*size)
    for (top, left), value in zip(windows.corners.tolist(), values, strict=True):
        place = (..., slice(top, top + windows.side), slice(left, left + windows.side))
        total[place] += value[..., None, None]
        covered[place] += 1
    return total / covered


def _reading_side(encoder: Any) -> int:
    """The side of the square that the encoder's image tower was made for."""
    preprocess = getattr(encoder, "preprocess", None)
    size = preprocess.size if preprocess is not None else getattr(encoder, "image_size", 224)
    return size if isinstance(size, int) else min(size)
