"""The encoder ``openclip``: any CLIP of open_clip, frozen, with gradients to the picture.

Source: A. Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
ICML 2021; G. Ilharco et al., OpenCLIP, 2021.
"""

import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize

from fusionkit.batch import ImageFeatures, TextFeatures
from fusionkit.devices import pick_device, pick_precision
from fusionkit.errors import BadRequest
from fusionkit_openclip.build import build, make_tokenizer, resolved_config
from fusionkit_openclip.preprocess import Preprocess, changed
from fusionkit_openclip.sources import CONFIG_FILE, WEIGHTS_FILE, digest, find
from fusionkit_openclip.towers import make_tower

BACKGROUND = ("object", "things", "stuff", "texture")
"""What a prompt competes with in a heat map: words that fit everything. They are the canonical
phrases of J. Kerr et al., "LERF: Language Embedded Radiance Fields", ICCV 2023."""

_SHORT_PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
_CHUNK = 256
"""Prompts that go through the text tower at once; bounds the memory of long lists."""


class OpenClip:
    """Sentences and pictures in the joint space of a CLIP from open_clip.

    Nothing is normalised: ``pooled`` is the raw output of the projection in float32, which is
    what the published fusion networks were trained on. No parameter wants a gradient; gradients
    reach the picture. Autocast of the surroundings is switched off inside, ``precision`` rules.

    Args:
        model: architecture of open_clip (``ViT-B-16``, also ``ViT-B-16:TAG``), ``local-dir:FOLDER``
            or a folder as written by :meth:`save`, or ``hf-hub:OWNER/NAME``. Weights of OpenAI
            want the ``-quickgelu`` architectures; the wrong one is refused.
        pretrained: tag of published weights, a file, a folder, or None (see ``untrained``).
        device: ``auto`` takes the GPU where there is one.
        precision: ``float32``, ``bfloat16``, ``float16`` (GPU only) or ``auto``. Inside only:
            features are float32 in each case.
        cache_dir: where downloaded weights are kept; None is the hub's own place.
        image_size: input size of the image tower, other than the model's own; a number or
            ``(height, width)``. Positions are interpolated when the weights are loaded.
        dense: what patch features are, see :mod:`fusionkit_openclip.towers`: ``value`` (default
            where the tower allows it), ``tokens``, or ``none``: one cell for the whole picture,
            for losses that need ``pooled`` alone and should not pay for more.
        dense_size: shorter side in pixels at which patches are read, or ``(height, width)``; more
            gives a finer grid and costs its square. None is the model's input size.
        background: what prompts compete with in a heat map.
        preprocess: fields that differ from the model's own: ``mean``, ``std``, ``interpolation``,
            ``resize_mode``, ``fill_color``, ``antialias``.
        config: an architecture of one's own in place of ``model``: a mapping in open_clip's form,
            or a JSON file.
        untrained: random weights, drawn from ``seed``; only together with ``pretrained=None``.
        seed: see ``untrained``.

    Which part of the picture is seen:
        ``pooled`` follows the model's own rule. For most models that is ``shortest``: of a picture
        that is not square the centre is read and the ends are not, neither by the feature nor by
        its gradient. ``preprocess={"resize_mode": "squash"}`` reads all of it, squeezed.
        ``patches`` always cover the whole picture, aspect kept to within half a patch, positions
        interpolated. Where the two views are the same (square pictures, ``squash``) one pass
        serves both; otherwise there are two.

    Raises:
        BadRequest: a name, option or combination that does not fit.
        MissingWeights: the weights are not here and cannot be fetched; says what to do.

    Example:
        >>> encoder = OpenClip()                                          # doctest: +SKIP
        >>> encoder.encode_text(["a person at night"]).pooled.shape       # doctest: +SKIP
        torch.Size([1, 512])
    """

    paper = "Radford et al., ICML 2021 (CLIP); Zhou et al., ECCV 2022 (dense features)"
    needs = "weights: fetched once, or a local folder"

    def __init__(
        self,
        *,
        model: str = "ViT-B-32-quickgelu",
        pretrained: str | None = "openai",
        device: str | torch.device = "auto",
        precision: str = "float32",
        cache_dir: str | os.PathLike[str] | None = None,
        image_size: int | Sequence[int] | None = None,
        dense: str | None = None,
        dense_size: int | Sequence[int] | None = None,
        background: Sequence[str] = BACKGROUND,
        preprocess: Mapping[str, Any] | None = None,
        config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        untrained: bool = False,
        seed: int = 0,
    ) -> None:
        self.device = pick_device(str(device))
        precision = _SHORT_PRECISIONS.get(precision, precision)
        self.dtype = pick_precision(precision, self.device)
        image_size, dense_size = _size(image_size, "image_size"), _size(dense_size, "dense_size")
        if isinstance(background, str) or not all(isinstance(p, str) for p in background):
            raise BadRequest(f"background is a list of prompts, not {background!r}.")
        preprocess = dict(preprocess or {})

        self.source = find(
            model,
            pretrained,
            config=config,
            untrained=untrained,
            cache_dir=cache_dir,
            overrides=preprocess,
        )
        self.config = resolved_config(self.source, image_size)
        self.text_dim: int = self.config["embed_dim"]
        self.model: nn.Module = build(
            self.source, device=self.device, dtype=self.dtype, image_size=image_size, seed=seed
        )
        self.tower = make_tower(self.model, self.source.model, dense)
        self.tokenizer = make_tokenizer(self.source, cache_dir)
        self.preprocess = changed(self._own_preprocess(), preprocess)
        self._overridden = sorted(preprocess)
        self.dense_size = dense_size
        self.background = tuple(background)
        self._background: Tensor | None = None

    # -- what it is ------------------------------------------------------------------------------

    @property
    def description(self) -> str:
        """The encoder in a few words, for titles and tables."""
        weights = "untrained (random weights)" if self.untrained else self.source.pretrained
        return f"open_clip {self.source.model}, {weights}"

    @property
    def untrained(self) -> bool:
        """Whether the weights are random."""
        return self.source.untrained

    def describe(self) -> dict[str, Any]:
        """Everything a stored run should know about this encoder, as plain values.

        ``weights_sha256`` identifies the file; it is computed at each call.
        """
        import open_clip

        source = self.source
        return {
            "description": self.description,
            "open_clip": open_clip.__version__,
            "model": source.model,
            "pretrained": source.pretrained,
            "untrained": self.untrained,
            "weights_sha256": digest(source.checkpoint) if source.checkpoint else None,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "text_dim": self.text_dim,
            "config": self.config,
            "preprocess": self.preprocess.as_dict(),
            "preprocess_from": source.preprocess_from,
            "preprocess_overridden": self._overridden,
            "dense": self.tower.dense,
            "dense_size": self.dense_size,
            "background": list(self.background),
            "precision": str(self.dtype).removeprefix("torch."),
        }

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.description}>"

    def to(self, device: str | torch.device) -> "OpenClip":
        """Move the encoder to another device, in place."""
        self.device = pick_device(str(device))
        self.model.to(self.device)
        self._background = None
        return self

    # -- text ------------------------------------------------------------------------------------

    def encode_text(self, prompts: Sequence[str]) -> TextFeatures:
        """Prompts to features, without gradient.

        Returns:
            ``pooled`` ``(B, D)``: the text embedding before any normalisation. ``tokens``
            ``(B, L, D)``: the state of every token through the same final norm and projection;
            the row of the end token is ``pooled``. ``mask`` ``(B, L)``: real tokens, start and end
            included. L is the model's context length (77 for CLIP). Towers from the transformers
            library give no ``tokens``.

        Warns:
            UserWarning: a prompt is longer than the context and was cut.
        """
        prompts = _prompts(prompts)
        parts = [
            self._read(prompts[i : i + _CHUNK]) for i in range(0, max(1, len(prompts)), _CHUNK)
        ]
        return TextFeatures.cat(parts)

    @torch.no_grad()
    def _read(self, prompts: list[str]) -> TextFeatures:
        self._warn_of_cuts(prompts)
        ids = self.tokenizer(prompts).to(self.device)
        text = getattr(self.model, "text", self.model)  # newer classes keep the tower apart
        native = hasattr(text, "ln_final")
        states: list[Tensor] = []
        hook = text.transformer.register_forward_hook(lambda m, i, out: states.append(out))
        try:
            with self._own_precision():
                pooled = self.model.encode_text(ids, normalize=False)
                tokens = _project_tokens(text, states[0]) if native else None
        finally:
            hook.remove()
        return TextFeatures(
            pooled=pooled.float(),
            tokens=None if tokens is None else tokens.float(),
            mask=None if tokens is None else self._real_tokens(ids, text),
        )

    def _real_tokens(self, ids: Tensor, text: nn.Module) -> Tensor:
        """True up to the end token. Zeros are no sign of padding: in CLIP's vocabulary ``!`` is 0.

        Towers without an end token count everything that is not their tokenizer's padding.
        """
        kind = getattr(text, "text_pool_type", getattr(text, "pool_type", "argmax"))
        if kind == "argmax":
            end = ids.argmax(dim=-1, keepdim=True)
            return torch.arange(ids.shape[1], device=ids.device) <= end
        padding = getattr(getattr(self.tokenizer, "tokenizer", None), "pad_token_id", None)
        return torch.ones_like(ids, dtype=torch.bool) if padding is None else ids != padding

    def _warn_of_cuts(self, prompts: list[str]) -> None:
        encode, length = getattr(self.tokenizer, "encode", None), self._context_length
        for prompt in prompts if encode and length else ():
            # No token is shorter than a character, so short prompts need no counting.
            if len(prompt) > length - 2 and (count := len(encode(prompt))) > length - 2:
                warnings.warn(
                    f"a prompt has {count} tokens, {self.source.model} reads the first "
                    f"{length - 2}: {prompt[:60]!r}...",
                    stacklevel=4,
                )

    @property
    def _context_length(self) -> int | None:
        return getattr(self.tokenizer, "context_length", None)

    # -- pictures --------------------------------------------------------------------------------

    def encode_image(self, image: Tensor) -> ImageFeatures:
        """Pictures to features; gradients reach the pictures.

        Args:
            image: ``(B, 3, H, W)`` or ``(B, 1, H, W)`` in [0, 1]; grey is repeated to three
                channels. Any size, see the class for what is seen of it.

        Returns:
            ``pooled`` ``(B, D)``, raw; ``patches`` ``(B, D, h, w)`` in the same space, which cover
            the whole picture.
        """
        image = self._checked(image)
        with self._own_precision():
            if self.tower.dense == "none" or self._one_view(image):
                pooled, patches = self.tower.both(self._fit(image))
            else:
                pooled = self.tower.pooled(self._fit(image))
                patches = self.tower.patches(self._whole(image))
        return ImageFeatures(pooled=pooled.float(), patches=patches.float())

    def embed_image(self, image: Tensor) -> Tensor:
        """``pooled`` of :meth:`encode_image` alone, ``(B, D)``: one pass whatever the shape.

        For losses over many crops, which have no use for patches.
        """
        image = self._checked(image)
        with self._own_precision():
            return self.tower.pooled(self._fit(image)).float()

    def heatmap(self, prompts: Sequence[str], image: Tensor) -> Tensor:
        """How much more each place looks like the prompt than like anything: ``(B, 1, H, W)``.

        Softmax over the cosines of a patch with the prompt and with the ``background`` prompts,
        at the model's own logit scale; the share of the prompt, interpolated to the size of the
        picture. A value is a probability against the background, comparable between pictures,
        not stretched to fill [0, 1]. A background prompt that equals the prompt is left out.

        Args:
            prompts: one, or one per picture.
            image: as for :meth:`encode_image`.
        """
        prompts = _prompts(prompts)
        image = self._checked(image)
        if len(prompts) not in (1, len(image)):
            raise BadRequest(
                f"{len(prompts)} prompts for {len(image)} pictures: give one, or one per picture."
            )
        scores = self._scores(prompts, image)  # B P h w
        if len(prompts) > 1:
            scores = scores[torch.arange(len(image)), torch.arange(len(image))][:, None]
        return _enlarged(scores, image)

    def heatmaps(self, prompts: Sequence[str], image: Tensor, *, full_size: bool = True) -> Tensor:
        """Every prompt over every picture, ``(B, P, H, W)`` in [0, 1], one pass per picture.

        Values as in :meth:`heatmap`; at the patches' own grid when ``full_size`` is false.
        """
        scores = self._scores(_prompts(prompts), self._checked(image))
        if full_size:
            scores = _enlarged(scores, image)
        return scores

    def heatmap_grid(self, prompts: Sequence[str], image: Tensor) -> Tensor:
        """:meth:`heatmaps` at the patches' own grid, ``(B, P, h, w)``."""
        return self.heatmaps(prompts, image, full_size=False)

    def _scores(self, prompts: list[str], image: Tensor) -> Tensor:
        if self.tower.dense == "none":
            raise BadRequest(
                f"{self.description} has no patch features here, so it draws no heat map: ViT and "
                "RN architectures have them, built without dense='none'."
            )
        if not self.background:
            raise BadRequest("a heat map needs background prompts to compare with; there are none.")
        if self._background is None:
            self._background = normalize(self.encode_text(self.background).pooled, dim=-1)
        with self._own_precision():
            patches = self.tower.patches(self._whole(image)).float()
        patches = normalize(patches, dim=1)
        named = normalize(self.encode_text(prompts).pooled, dim=-1)
        scale = self.model.logit_scale.exp().float()
        wanted = scale * torch.einsum("bdhw,pd->bphw", patches, named)
        others = scale * torch.einsum("bdhw,kd->bkhw", patches, self._background)
        same = torch.tensor(
            [[_words(p) == _words(b) for b in self.background] for p in prompts],
            device=self.device,
        )
        if bool(same.all(dim=1).any()):
            raise BadRequest("a prompt equals the only background prompt; give other ones.")
        rivals = torch.where(same[None, :, :, None, None], -torch.inf, others[:, None])
        return (wanted - torch.logsumexp(rivals, dim=2)).sigmoid()  # share of the prompt

    def _one_view(self, image: Tensor) -> bool:
        """Whether the model's own view of the picture is also the view of the patches."""
        return self._whole_size(image) == self.preprocess.size and self.preprocess.keeps_all(
            *image.shape[-2:]
        )

    def _whole_size(self, image: Tensor) -> tuple[int, int]:
        stride = self.tower.stride
        if isinstance(self.dense_size, tuple):
            return tuple(max(1, round(side / stride)) * stride for side in self.dense_size)
        return self.preprocess.whole_size(*image.shape[-2:], stride, self.dense_size)

    def _fit(self, image: Tensor) -> Tensor:
        return self.preprocess.fit(image).to(self.dtype)

    def _whole(self, image: Tensor) -> Tensor:
        return self.preprocess.whole(image, self._whole_size(image)).to(self.dtype)

    def _checked(self, image: Tensor) -> Tensor:
        fits = isinstance(image, Tensor) and image.dim() == 4 and image.shape[1] in (1, 3)
        if not fits or not image.is_floating_point():
            what = type(image).__name__
            if isinstance(image, Tensor):
                what = f"{tuple(image.shape)} {image.dtype}"
            raise BadRequest(
                f"a picture is a float tensor (B, 1 or 3, H, W) with values in [0, 1]; this is "
                f"{what}."
            )
        return image.to(self.device, torch.float32)

    # -- the rest --------------------------------------------------------------------------------

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the folder form of open_clip: configuration, preprocessing and weights.

        ``model="local-dir:FOLDER"`` reads it on a machine without a network, with the same
        features; so does open_clip itself. Weights are written as float32.
        """
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {
            key: value.detach().float().cpu().contiguous() if value.is_floating_point() else value
            for key, value in self.model.state_dict().items()
        }
        save_file(weights, folder / WEIGHTS_FILE)
        stored = {
            "model_cfg": self.config,
            "preprocess_cfg": {
                key: value
                for key, value in self.preprocess.as_dict().items()
                if key not in ("size", "antialias")  # the first is the model's, the second ours
            },
            "fusionkit": {
                "model": self.source.model,
                "pretrained": self.source.pretrained,
                "untrained": self.untrained,
                "antialias": self.preprocess.antialias,
            },
        }
        text = json.dumps(stored, indent=2)
        (folder / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
        if hasattr(self.tokenizer, "save_pretrained"):
            self.tokenizer.save_pretrained(str(folder))
        return folder

    def _own_preprocess(self) -> Preprocess:
        size = self.model.visual.image_size
        known = {"mean": (0.48145466, 0.4578275, 0.40821073)}  # OpenAI's, open_clip's default
        known |= {"std": (0.26862954, 0.26130258, 0.27577711)}
        known |= {k: v for k, v in self.source.preprocess.items() if v is not None}
        if known.get("interpolation") == "random":
            known["interpolation"] = "bicubic"  # a training setting; open_clip reads it so too
        known = {k: v for k, v in known.items() if k in Preprocess.__slots__ and k != "size"}
        size = (size, size) if isinstance(size, int) else tuple(size)
        return changed(Preprocess(size=size, mean=known["mean"], std=known["std"]), known)

    @contextmanager
    def _own_precision(self) -> Iterator[None]:
        with torch.autocast(self.device.type, enabled=False):
            yield


def _project_tokens(text: nn.Module, states: Tensor) -> Tensor:
    """States of the last text block, in the joint space like the pooled one."""
    if getattr(text, "cls_emb", None) is not None:
        states = states[:, :-1]  # CoCa appends a token that is no word
    states = text.ln_final(states)
    projection = text.text_projection
    if projection is None:
        return states
    return projection(states) if isinstance(projection, nn.Linear) else states @ projection


def _enlarged(scores: Tensor, image: Tensor) -> Tensor:
    return interpolate(scores, image.shape[-2:], mode="bilinear", align_corners=False)


def _prompts(prompts: Sequence[str]) -> list[str]:
    if isinstance(prompts, str) or not all(isinstance(p, str) for p in prompts):
        raise BadRequest(f"prompts are a list of sentences, not {prompts!r}.")
    return list(prompts)


def _words(prompt: str) -> str:
    return " ".join(prompt.lower().split())


def _size(value: Any, option: str) -> int | tuple[int, int] | None:
    if value is None:
        return None
    sides = (value,) if isinstance(value, int) else tuple(value)
    if len(sides) not in (1, 2) or not all(isinstance(s, int) and s > 0 for s in sides):
        raise BadRequest(f"{option} is {value!r}; give one number of pixels, or height and width.")
    return value if isinstance(value, int) else sides
