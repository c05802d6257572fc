r"""Association maps: which places of the two pictures a sentence speaks of, from coarse to fine.

*Coarse*: an optimal-transport plan between the words of the sentence and the patches of a picture;
what a noun receives is its relevance map; patches more than one standard deviation above the mean
for at least one noun, in either modality, are relevant. *Fine*: of given instance masks, those that
lie in the relevant region by more than half; their union is B. The steps follow the released
generator of the maps, section "association" of C. Cheng et al., "TextFusion", Information Fusion
117 (2025) 102790; the plan is the proximal point method (IPOT) of Y. Xie et al., UAI 2019, as
W. Kim et al. use it in "ViLT", ICML 2021.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fusionkit.batch import Batch
from fusionkit.errors import BadRequest

WORDS = 30
"""Words of a sentence that are read; the released generator cuts the rest."""
LARGE = 1e4
"""Added to the denominators of masked entries, so that their share is nothing."""

Read = Callable[[str, Tensor], tuple[Sequence[str], Tensor, Tensor]]
"""``(sentence, picture (1, C, H, W)) -> L words, their features (L, D), patches (D, h, w)``."""


def word_patch_cost(text: Tensor, image: Tensor) -> Tensor:
    """1 - cos of every word ``(B, L, D)`` and patch ``(B, P, D)``: ``(B, L, P)`` in [0, 2]."""
    text = functional.normalize(text, dim=-1, eps=1e-5)
    image = functional.normalize(image, dim=-1, eps=1e-5)
    return 1 - text @ image.transpose(1, 2)


def transport_plan(
    cost: Tensor,
    words: Tensor | None = None,
    patches: Tensor | None = None,
    *,
    beta: float = 0.1,
    iterations: int = 1000,
) -> Tensor:
    r"""How much of each patch goes to each word, with uniform marginals.

    Proximal iterations with one Sinkhorn step each: from :math:`T = 1` and :math:`\sigma = 1/m`,

    .. math:: Q = e^{-C^T/\beta} \odot T,\quad \delta = 1 / (n\,Q\sigma),\quad
              \sigma = 1 / (m\,Q^T\delta),\quad T = \delta\, Q\, \sigma^T

    Args:
        cost: C, ``(B, L, P)``.
        words: True where a word counts, ``(B, L)``; None: all of the m words.
        patches: True where a patch counts, ``(B, P)``; None: all of the n patches.
        beta: weight of the proximal term; the released generator takes 0.1 where ViLT trains
            with 0.5 and 50 iterations.

    Returns:
        T, ``(B, P, L)``; zero where a word or a patch does not count.
    """
    batch, length, count = cost.shape
    words = cost.new_ones(batch, length) if words is None else words.to(cost.dtype)
    patches = cost.new_ones(batch, count) if patches is None else patches.to(cost.dtype)
    both = patches[:, :, None] * words[:, None]
    m, n = words.sum(1)[:, None, None], patches.sum(1)[:, None, None]
    kernel = torch.exp(-cost.transpose(1, 2) / beta) * both
    plan, sigma = both, words[:, :, None] / m
    no_patch, no_word = LARGE * (1 - patches)[:, :, None], LARGE * (1 - words)[:, :, None]
    for _ in range(iterations):
        q = kernel * plan
        delta = 1 / (n * (q @ sigma) + no_patch)
        sigma = 1 / (m * (q.transpose(1, 2) @ delta) + no_word)
        plan = delta * q * sigma.transpose(1, 2)
    return plan * both


def heat_from_plan(row: Tensor) -> Tensor:
    """What one word receives, ``(..., h, w)``, as a heat map in [0, 1], stretched.

    Standardised over the patches (unbiased deviation), clipped to one to three deviations above the
    mean, stretched to [0, 1].
    """
    mean, deviation = row.mean((-2, -1), keepdim=True), row.std((-2, -1), keepdim=True)
    z = ((row - mean) / deviation.clamp(min=1e-12)).clamp(1, 3) - 1
    return z / z.amax((-2, -1), keepdim=True).clamp(min=1e-12)


def eight_bits(heat: Tensor) -> Tensor:
    """A heat map as the generator keeps it: 256 steps, cut off, so that the faintest is nothing."""
    return (heat * 255).floor() / 255


def coarse_map(heats: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Heat maps of a sentence's nouns -> their maximum M, and where it is above zero.

    At least one map ``(..., H, W)`` in [0, 1]; M likewise, then bool.
    """
    heat = torch.stack(list(heats)).amax(0)
    return heat, heat > 0


def instance_vote(coarse: Tensor, instances: Tensor, share: float = 0.5) -> tuple[Tensor, Tensor]:
    """The union B of the instances that lie in the coarse map by more than ``share``.

    Args:
        coarse: ``(H, W)`` bool.
        instances: masks of things in either modality, ``(N, H, W)`` bool.

    Returns:
        B ``(H, W)`` bool, and the coverage of every instance ``(N,)``.
    """
    area = instances.flatten(1).sum(1)
    inside = (instances & coarse).flatten(1).sum(1)
    coverage = inside / area.clamp(min=1)
    return instances[coverage > share].any(0), coverage


class Association:
    """The maps of each pair under its prompt, as a guide.

    Gives ``association``: the fine mask B, ``association_coarse`` and ``association_heat``: M, the
    larger one of both modalities; ``(B, 1, H, W)`` in [0, 1] each. Instance masks come with the
    batch as ``guides["instances"]``, ``(B, N, H, W)``, from whatever segments (the authors: a
    panoptic FPN on each modality). Without them B is the coarse map itself. Without words
    everything is relevant, so B is the union of all instances.

    The authors read words and patches with ViLT (``reader="vilt"``, weights through transformers).
    ``reader="encoder"`` takes the run's joint encoder, each word alone against the patches: a
    substitute that keeps the remaining steps.

    Args:
        encoder: a joint encoder, for ``reader="encoder"``.
        reader: ``encoder``, ``vilt``, ``ones`` (everything is relevant), or a function
            ``(sentence, picture (1, C, H, W)) -> words, (L, D), patches (D, h, w)``.
        share: what an instance must have in the coarse map.
        beta, iterations: see :func:`transport_plan`.
    """

    maps = ("association", "association_coarse", "association_heat")
    paper = "Cheng et al., TextFusion, Information Fusion 2025"

    def __init__(
        self,
        *,
        encoder: Any = None,
        reader: str | Read = "encoder",
        share: float = 0.5,
        beta: float = 0.1,
        iterations: int = 1000,
    ) -> None:
        if isinstance(reader, str) and reader not in ("encoder", "vilt", "ones"):
            raise BadRequest(f"guide 'association' has no reader {reader!r}: encoder, vilt, ones.")
        if reader == "encoder":
            if not hasattr(encoder, "encode_image"):
                raise BadRequest(
                    "guide 'association' needs an encoder that reads pictures too (tiny-clip, "
                    "openclip), or reader='vilt'."
                )
            reader = EncoderReader(encoder)
        elif reader == "vilt":
            from fusionkit_textfusion.vilt import Vilt

            reader = Vilt()
        self.read, self.share, self.beta, self.iterations = reader, share, beta, iterations

    @torch.no_grad()
    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        if self.read != "ones" and not batch.prompts:
            raise BadRequest("guide 'association' needs the batch's prompts in words.")
        prompts = batch.prompts or ("",) * len(batch)
        instances = batch.guides.get("instances")
        rows = []
        for i, prompt in enumerate(prompts):
            pictures = batch.visible[i : i + 1].float(), batch.infrared[i : i + 1].float()
            heat, coarse = self.coarse(prompt, pictures)
            fine = coarse
            if instances is not None:
                fine, _ = instance_vote(coarse, instances[i] > 0.5, self.share)
            rows.append(torch.stack([fine.float(), coarse.float(), heat])[:, None])
        return {name: torch.stack([row[k] for row in rows]) for k, name in enumerate(self.maps)}

    def coarse(self, prompt: str, pictures: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """M ``(H, W)`` in [0, 1] and the coarse map ``(H, W)`` bool of one pair."""
        size = tuple(pictures[0].shape[-2:])
        sentence = " ".join(prompt.strip().partition("\n")[0].split(" ")[:WORDS])
        if self.read == "ones" or not words_of(sentence):
            ones = torch.ones(size, device=pictures[0].device)
            return ones, ones > 0
        found = []
        for picture in pictures:
            words, text, patches = self.read(sentence, picture)
            cost = word_patch_cost(text[None].float(), patches.flatten(1).T[None].float())
            plan = transport_plan(cost, beta=self.beta, iterations=self.iterations)[0].T
            grids = plan.unflatten(1, patches.shape[-2:])
            nouns = [k for k, word in enumerate(words) if is_noun(word)]
            found += [eight_bits(heat_from_plan(grids[k])) for k in nouns]
        if not found:
            zeros = torch.zeros(size, device=pictures[0].device)
            return zeros, zeros > 0
        full = [functional.interpolate(h[None, None], size, mode="nearest")[0, 0] for h in found]
        return coarse_map(full)


class EncoderReader:
    """Words, each by itself, and patches of a joint encoder of the bench."""

    def __init__(self, encoder: Any) -> None:
        self.encoder = encoder

    def __call__(self, sentence: str, picture: Tensor) -> tuple[list[str], Tensor, Tensor]:
        words = words_of(sentence)
        text = self.encoder.encode_text(words).pooled
        patches = self.encoder.encode_image(picture).patches[0]
        return words, text.to(patches.device), patches


def words_of(sentence: str) -> list[str]:
    """The words of a sentence without punctuation, in lower case."""
    return [word for part in sentence.split() if (word := re.sub(r"[^\w'-]", "", part).lower())]


def is_noun(word: str) -> bool:
    """Whether a word by itself counts as a noun: what no list of other words holds.

    The released generator asks a statistical tagger for each word-piece out of its context, so that
    adjectives and prepositions slip in ("silver", "beside"); here a word counts unless it is known
    to be of another kind. No data to download.
    """
    return word.isalpha() and word not in OTHER_WORDS and not word.endswith(("ing", "ly"))


_NOT_NOUNS = """
    a an the this that these those there here it its he she they them his her their we our you
    your i me my who which what where when is are was were be been being am has have had do does did
    can could will would should may might must not no nor and or but so if as than then because
    while of in on at by to from with without into onto over under above below behind between
    through across along around against among near next beside up down off out about during before
    after left right front back one two three four five six several many some any all both each
    every few more most other another same such very too also just only black white red green blue
    yellow grey gray brown dark bright big small large little tall short long old young new cold
    warm hot visible infrared highlight show keep make walk walks stand stands sit sits drive drives
    park parked carry carries wear wears ride rides hold holds look looks
"""
OTHER_WORDS = frozenset(_NOT_NOUNS.split())
"""Words of closed classes, colours, common adjectives and verbs."""
