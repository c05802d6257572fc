"""A method ready to use: a network with its text, its guides and its weights."""

import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from fusionkit import devices
from fusionkit.batch import Batch, Fused, TextFeatures
from fusionkit.data import CannotWrite, pad_to_multiple
from fusionkit.errors import BadRequest, MissingWeights
from fusionkit.guides import add_guides
from fusionkit.recipe import Part, Recipe
from fusionkit.registry import Registry, check_options
from fusionkit.text import TextBank

FORMAT = "fusionkit-method-1"
WEIGHTS = (".pth", ".pt", ".model", ".safetensors")
"""Suffixes of weights files."""


class Method:
    """A recipe's parts, built and put together.

    Args:
        recipe: which parts and options.
        registry: where the parts come from.
        device: where it computes.
        dtype: bfloat16 computes under autocast; weights and results stay float32.
        encoder: an encoder already built, to share one between arms; None builds the recipe's.
        network: a network already built and filled; None builds the recipe's.
    """

    def __init__(
        self,
        recipe: Recipe,
        registry: Registry,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        encoder: Any = None,
        network: nn.Module | None = None,
    ) -> None:
        self.device, self.dtype = torch.device(device), dtype
        if encoder is None and recipe.encoder is not None:
            recipe, encoder = settle_encoder(recipe, registry, self.device)
        self.recipe, self.registry, self.encoder = recipe, registry, encoder
        if recipe.refine is not None:
            given = dict.fromkeys(("method", "batch", "fused")) | recipe.refine_options
            check_options(f"the refinement of recipe {recipe.name!r}", recipe.refine, given)
        self._captioner: Any = None
        self.missing_encoder: str | None = None
        """Why there is no encoder although the recipe has one."""
        self.bank = (
            None
            if encoder is None
            else TextBank(
                encoder,
                standardise=recipe.standardise_text,
                device=self.device,
                reads=recipe.reads,
            )
        )
        offers = {"encoder": encoder, "registry": registry}
        self.guides = {
            part.name: create(registry, "guide", part.name, part.options, **offers)
            for part in recipe.guides
        }
        if network is None:
            network = build_network(recipe, registry, getattr(encoder, "text_dim", None))
        self.network = network
        self.network.to(self.device)
        if recipe.channels_last and self.device.type in ("cpu", "cuda"):
            self.network.to(memory_format=torch.channels_last)
        self.layers = tuple(getattr(self.network, "layers", ()))

    def with_text(self, batch: Batch) -> Batch:
        """The batch with the features of its prompts, from the bank.

        And those of the pairs' own descriptions (``batch.labels["texts"]``, kind -> words for each
        pair), of the kinds that the recipe reads.
        """
        if self.bank is None:
            return batch
        if batch.text is None and batch.prompts:
            batch = batch.replace(text=self.bank(batch.prompts))
        words = batch.labels.get("texts", ())
        found = {
            kind: self._described([texts.get(kind, "") for texts in words])
            for kind in self.recipe.texts
            if kind not in batch.texts and any(texts.get(kind) for texts in words)
        }
        return batch.replace(texts={**batch.texts, **found}) if found else batch

    def _described(self, sentences: Sequence[str]) -> TextFeatures:
        """Features of descriptions, zero where there is none."""
        text = self.bank(sentences)
        given = torch.tensor([bool(s) for s in sentences], device=text.pooled.device)
        return TextFeatures(
            pooled=text.pooled * given[:, None],
            tokens=None if text.tokens is None else text.tokens * given[:, None, None],
            mask=text.mask,
        )

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Fused:
        """Fuse a batch of any size: text and guides added, padded, fused, cropped, refined.

        The result lies where the pictures came from, whatever the device of the method, so that it
        can be compared with its sources and targets, and saved.
        """
        home = batch.visible.device
        self.network.eval()
        batch = self.with_text(add_guides(batch.to(self.device), self.guides))
        padded, size = _pad(batch, getattr(self.network, "multiple_of", 1))
        with devices.autocast(self.device, self.dtype):
            fused = self.network(channels_last(padded) if self.recipe.channels_last else padded)
        fused = Fused(
            image=fused.image[..., : size[0], : size[1]].float().clamp(0, 1),
            maps=fused.maps,
            terms=fused.terms,
        )
        if self.recipe.refine is not None:
            fused = self.recipe.refine(self, batch, fused, **self.recipe.refine_options)
        return Fused(
            image=fused.image.to(home),
            maps={name: values.to(home) for name, values in fused.maps.items()},
            terms=fused.terms,
        )

    def fuse(
        self,
        ir: Tensor,
        vi: Tensor,
        text: Sequence[str] | str | TextFeatures | Mapping[str, Any] | None = None,
        *,
        guides: Mapping[str, Tensor] | None = None,
        names: Sequence[str] = (),
    ) -> Tensor:
        """Fuse pictures under a text.

        Args:
            ir: ``(B, 1, H, W)`` or ``(B, 3, H, W)`` in [0, 1].
            vi: ``(B, 3, H, W)`` in [0, 1], the same height and width.
            text: one prompt, or one per pair, or features already made; None says the recipe's
                default. For a method that reads several texts, each of these by its kind.
            guides: maps of one's own by name, ``(B, C, h, w)``; a guide of the recipe whose maps
                are all here is not asked.
            names: what the pairs are called, for guides that read files.

        Returns:
            ``(B, 3, H, W)`` in [0, 1], on the device of ``vi``.

        Raises:
            BadRequest: sizes that differ, values outside [0, 1], a wrong number of prompts.
        """
        ir, vi = check_pictures(ir, vi)
        minimum = getattr(self.network, "min_size", 1)
        if min(vi.shape[-2:]) < minimum:
            raise BadRequest(
                f"{self.recipe.name} needs pictures of at least {minimum} pixels on each side, "
                f"got {vi.shape[-2]}x{vi.shape[-1]}."
            )
        for name, given in (guides or {}).items():
            if given.ndim != 4 or len(given) != len(vi):
                raise BadRequest(
                    f"guide {name!r} is {tuple(given.shape)}, and {len(vi)} pairs need "
                    f"({len(vi)}, C, h, w)."
                )
        batch = Batch(visible=vi, infrared=ir, guides=dict(guides or {}), names=tuple(names))
        words = bool(text or self.recipe.default_text) and not isinstance(text, TextFeatures)
        if isinstance(text, Mapping):
            batch, text = batch.replace(**self._by_kind(text, len(vi))), None
            words = bool(batch.labels)
        elif text is None and self.recipe.captioner is not None and self.bank is not None:
            batch = batch.replace(labels={"texts": self.describe(ir, vi)})
        if isinstance(text, TextFeatures):
            scaled = text if self.bank is None else self.bank.scale(text.to(self.device))
            batch = batch.replace(text=scaled.expand(len(vi)))
        elif self.bank is not None:
            prompts = [text] if isinstance(text, str) else list(text or [self.recipe.default_text])
            if len(prompts) == 1:
                prompts = prompts * len(vi)
            if len(prompts) != len(vi):
                raise BadRequest(
                    f"{len(prompts)} prompts for {len(vi)} pairs: give one, or one per pair."
                )
            batch = batch.replace(prompts=tuple(prompts))
        elif words and self.missing_encoder is not None:
            raise MissingWeights(
                f"{self.missing_encoder} Or pass features made elsewhere as TextFeatures."
            )
        elif words and self.recipe.refine is None:
            warnings.warn(
                f"{self.recipe.name} reads no text when it fuses, so the given one changes "
                f"nothing. {self.recipe.remark}".strip(),
                stacklevel=2,
            )
        return self(batch).image

    def describe(self, ir: Tensor, vi: Tensor) -> tuple[dict[str, str], ...]:
        """What the recipe's captioner says of both pictures of each pair, by kind."""
        if self._captioner is None:
            part = self.recipe.captioner
            self._captioner = create(
                self.registry, "captioner", part.name, part.options, registry=self.registry
            )
        said = (
            self._captioner(ir.cpu(), modality="infrared"),
            self._captioner(vi.cpu(), modality="visible"),
        )
        return tuple({"ir": first, "vi": second} for first, second in zip(*said, strict=True))

    def _by_kind(self, texts: Mapping[str, Any], count: int) -> dict[str, Any]:
        """Texts by kind as fields of a batch: features as they are, words for the bank."""
        known = self.recipe.texts
        if unknown := sorted(set(texts) - set(known)):
            reads = f"it reads {', '.join(known)}" if known else "it reads one prompt"
            raise BadRequest(
                f"{self.recipe.name} reads no text {unknown[0]!r}: {reads}.",
                asked=unknown[0],
                known=known,
            )
        features, words = {}, [{} for _ in range(count)]
        for kind, text in texts.items():
            if isinstance(text, TextFeatures):
                text = text.to(self.device)
                scaled = text if self.bank is None else self.bank.scale(text)
                features[kind] = scaled.expand(count)
                continue
            sentences = [text] * count if isinstance(text, str) else list(text)
            if len(sentences) != count:
                raise BadRequest(
                    f"{len(sentences)} texts {kind!r} for {count} pairs: give one, or one per pair."
                )
            for entry, sentence in zip(words, sentences, strict=True):
                entry[kind] = sentence
        return {"texts": features, "labels": {"texts": tuple(words)} if any(words) else {}}

    def state(self) -> dict[str, Any]:
        """Everything a checkpoint needs to fuse again, as plain data and tensors."""
        return {
            "format": FORMAT,
            "recipe": self.recipe.name,
            "parts": self.recipe.model_dump(mode="json"),
            "network": self.network.state_dict(),
            "text": {} if self.bank is None else self.bank.state(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Weights and text statistics of :meth:`state`; strict."""
        try:
            self.network.load_state_dict(state["network"])
        except RuntimeError as error:
            raise BadRequest(
                f"the checkpoint does not fit the network {self.recipe.network.name!r} "
                f"as this recipe builds it: {str(error).splitlines()[1].strip()}"
            ) from None
        if self.bank is not None:
            text = dict(state.get("text", {}))
            if self.recipe.standardise_text and not text:
                raise BadRequest(
                    f"the checkpoint lacks the text statistics that {self.recipe.name!r} was "
                    "trained with, so it would read every prompt wrongly; train it again."
                )
            self.bank.load_state(text)

    def save(self, path: str | os.PathLike[str], facts: Mapping[str, str] | None = None) -> Path:
        """Write the checkpoint; the file appears whole or not at all.

        A path that ends in ``.safetensors`` gets the network in half precision, for passing on, and
        ``facts`` into its metadata.
        """
        if Path(path).suffix == ".safetensors":
            return _save_compact(self.state(), Path(path), facts or {})
        return save_atomic(self.state(), path)


def settle_encoder(
    recipe: Recipe, registry: Registry, device: torch.device | str
) -> tuple[Recipe, Any]:
    """The recipe's encoder on the device, and the recipe with the encoder that it is.

    They differ where the weights of the recipe's encoder cannot be had and it names an
    ``offline_encoder``: then that one is built, with a warning, and stands in the recipe.
    Random numbers that the making draws are given back, so that a network starts from the same
    weights whether the encoder was built for it or shared.

    Raises:
        MissingWeights: no weights, and no offline encoder named.
    """
    if recipe.encoder is None:
        return recipe, None

    def build(part: Part) -> Any:
        with torch.random.fork_rng(devices=[]):
            return create(registry, "encoder", part.name, part.options, device=str(device))

    try:
        return recipe, build(recipe.encoder)
    except MissingWeights as error:
        part = recipe.offline_encoder
        if part is None or part == recipe.encoder:
            raise
        warnings.warn(
            f"recipe {recipe.name!r}: {error} Until then its text goes through "
            f"{part.name!r}, which is not the encoder of the paper: train anew, and compare with "
            "no published figure.",
            stacklevel=2,
        )
        return recipe.model_copy(update={"encoder": part}), build(part)


def build_network(recipe: Recipe, registry: Registry, text_dim: int | None) -> nn.Module:
    """The recipe's network with its modulation scheme in it."""
    part, scheme = recipe.network, recipe.modulation
    build: Callable[..., nn.Module] | None = None
    if scheme is not None:
        factory = registry.entry("network", part.name).factory
        if not getattr(factory, "modulation_points", ()):
            raise BadRequest(
                f"network {part.name!r} has no point at which text meets features, so it takes no "
                f"modulation {scheme.name!r}; leave modulation unset, or choose another network."
            )
        reads = getattr(registry.entry("modulation", scheme.name).factory, "uses_text", True)
        if text_dim is None and reads:
            raise BadRequest(
                f"modulation {scheme.name!r} reads text, but recipe {recipe.name!r} has no "
                "encoder: name one, or take a modulation that reads none."
            )

        def build(channels: int, **options: Any) -> nn.Module:
            return registry.create(
                "modulation",
                scheme.name,
                channels=channels,
                text_dim=text_dim,
                **{**options, **scheme.options},
            )

    offers = {"modulation": build, "text_dim": text_dim}
    return create(registry, "network", part.name, part.options, **offers)


def create(
    registry: Registry, kind: str, name: str, options: Mapping[str, Any], /, **offers: Any
) -> Any:
    """Build a component; of what the host offers, hand in only what its factory takes."""
    taken = {
        key: value
        for key, value in offers.items()
        if key not in options and registry.accepts(kind, name, key)
    }
    return registry.create(kind, name, **options, **taken)


def load_method(
    name: str,
    checkpoint: str | os.PathLike[str] | None = None,
    *,
    device: str = "auto",
    precision: str = "auto",
    registry: Registry | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Method:
    """A published or own method, ready to fuse.

    Args:
        name: a recipe's name.
        checkpoint: a file that training wrote, the authors' released file where the recipe knows
            its form (see :func:`load_official`), or None for weights that come with the recipe.
        overrides: values of the recipe by dotted path, over those of the checkpoint:
            ``{"refine_options.max_steps": 100}``.

    Raises:
        MissingWeights: the recipe brings no weights and none were given.
        BadRequest: the file is no checkpoint, or of another recipe.
    """
    registry = registry or Registry.from_environment()
    recipe = registry.create("recipe", name).with_overrides(overrides or {})
    where = devices.pick_device(device)
    dtype = devices.pick_precision(recipe.precision if precision == "auto" else precision, where)
    if checkpoint is None:
        checkpoint = bundled_weights(recipe)
    state = read_weights(checkpoint)
    if recipe.official is not None and not _is_ours(state):
        return _official_method(recipe, state, registry, where, dtype)
    state = _checked(state, checkpoint)
    if state["recipe"] != name:
        raise BadRequest(f"{checkpoint} holds weights of {state['recipe']!r}, not of {name!r}.")
    kept = {key: state["parts"][key] for key in type(recipe).model_fields if key in state["parts"]}
    try:
        recipe = Recipe(**kept, **recipe.callables())
    except ValidationError as error:
        first = error.errors()[0]
        raise BadRequest(
            f"{checkpoint} describes a method that this fusionkit cannot build: "
            f"{'.'.join(map(str, first['loc']))}: {first['msg']}."
        ) from None
    recipe = recipe.with_overrides(overrides or {})
    method = Method(_for_fusing(recipe, registry), registry, device=where, dtype=dtype)
    method.load_state(state)
    return method


def bundled_weights(recipe: Recipe) -> Path:
    """The file of the weights that come with a recipe.

    Raises:
        MissingWeights: none do, or the installation lacks the file.
    """
    if not recipe.checkpoint:
        raise MissingWeights(
            f"recipe {recipe.name!r} brings no weights: train it (`fusionkit train {recipe.name}` "
            "says where it writes them) and pass the file as checkpoint."
        )
    package, _, file = recipe.checkpoint.partition(":")
    found = find_spec(package)
    path = Path(next(iter(found.submodule_search_locations or [])), file) if found else Path(file)
    if not path.is_file():
        raise MissingWeights(
            f"recipe {recipe.name!r} should bring its weights as {recipe.checkpoint}, and the "
            "installation lacks them: install the package again."
        )
    return path


def _official_method(
    recipe: Recipe, state: Any, registry: Registry, device: torch.device, dtype: torch.dtype
) -> Method:
    """The recipe with the authors' weights, which fit the encoder of the paper and no other."""
    network, recipe = recipe.official(state).network, _for_fusing(recipe, registry)
    encoder, missing = None, None
    try:
        _, encoder = settle_encoder(
            recipe.model_copy(update={"offline_encoder": None}), registry, device
        )
    except MissingWeights as error:  # features made elsewhere can still be given
        missing = str(error)
        recipe = recipe.model_copy(update={"encoder": None})
    method = Method(recipe, registry, device=device, dtype=dtype, encoder=encoder, network=network)
    method.missing_encoder = missing
    return method


def _for_fusing(recipe: Recipe, registry: Registry) -> Recipe:
    """The recipe without an encoder that serves its losses alone: fusing needs no weights of it."""
    factory = registry.entry("network", recipe.network.name).factory
    reads = getattr(factory, "uses_text", True) or recipe.guides or recipe.refine is not None
    return recipe if reads else recipe.model_copy(update={"encoder": None})


def load_official(
    name: str,
    state: Mapping[str, Tensor] | str | os.PathLike[str],
    *,
    registry: Registry | None = None,
) -> nn.Module:
    """The authors' released weights in our network, called as the table of the contract says.

    Args:
        name: a recipe's name.
        state: a state dict with the official keys, or a ``.pth``, ``.pt``, ``.model`` or
            ``.safetensors`` file, or a folder of such files for weights released in parts; files
            are read without running code from them.
    """
    registry = registry or Registry.from_environment()
    recipe = registry.create("recipe", name)
    if recipe.official is None:
        raise BadRequest(f"recipe {name!r} has no released weights to load.")
    if not isinstance(state, Mapping):
        state = read_weights(state)
    return recipe.official(state).eval()


def read_weights(path: str | os.PathLike[str]) -> Any:
    """The content of a weights file, or of each file of a folder by name; never runs code."""
    path = Path(path)
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix in WEIGHTS and p.is_file())
        if not files:
            raise MissingWeights(f"no weights file ({', '.join(WEIGHTS)}) in the folder {path}.")
        return {file.name: read_weights(file) for file in files}
    if not path.is_file():
        raise MissingWeights(f"no weights file at {path}.")
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise BadRequest(
            f"{path} cannot be read as weights ({type(error).__name__}): it may be cut short, "
            "or hold more than tensors and plain values."
        ) from error


def _read_safetensors(path: Path) -> dict[str, Any]:
    """The tensors by name; a checkpoint of ours as :meth:`Method.state` has it."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        facts = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if facts.get("format") != FORMAT:
        return tensors
    parts: dict[str, Any] = {"network": {}, "text": {}}
    for name, values in tensors.items():
        part, _, own = name.partition(".")
        parts[part][own] = values.float() if values.is_floating_point() else values
    return {**parts, "format": FORMAT, "recipe": facts["recipe"],
            "parts": json.loads(facts["parts"])}  # fmt: skip


def _save_compact(state: Mapping[str, Any], path: Path, facts: Mapping[str, str]) -> Path:
    """A state as a safetensors file, the network in half precision."""
    from safetensors.torch import save

    half = {k: v.half() if v.is_floating_point() else v for k, v in state["network"].items()}
    tensors = {
        f"{part}.{name}": values.cpu().contiguous()
        for part, group in (("network", half), ("text", state["text"]))
        for name, values in group.items()
    }
    own = {"format": FORMAT, "recipe": state["recipe"], "parts": json.dumps(state["parts"])}
    facts = {**facts, **own}
    return _whole(path, lambda beside: beside.write_bytes(save(tensors, facts)))


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A checkpoint of ours."""
    return _checked(read_weights(path), path)


def _is_ours(state: Any) -> bool:
    return isinstance(state, dict) and state.get("format") == FORMAT


def _checked(state: Any, path: str | os.PathLike[str]) -> dict[str, Any]:
    if not _is_ours(state):
        raise BadRequest(
            f"{path} is no fusionkit checkpoint; authors' weights are read by load_official."
        )
    if missing := {"recipe", "parts", "network"} - set(state):
        raise BadRequest(f"{path} is no whole checkpoint: it lacks {', '.join(sorted(missing))}.")
    return state


def save_atomic(state: Mapping[str, Any], path: str | os.PathLike[str]) -> Path:
    """``torch.save`` beside the target, then rename: a kill never leaves half a file."""
    return _whole(Path(path), lambda beside: torch.save(dict(state), beside))


def _whole(path: Path, write: Callable[[Path], Any]) -> Path:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(beside)
        os.replace(beside, path)
    except (OSError, RuntimeError) as error:
        beside.unlink(missing_ok=True)
        raise CannotWrite(
            f"cannot write {path}: {error}. Free some space or choose another folder; "
            "what was written before is kept."
        ) from error
    return path


def check_pictures(ir: Tensor, vi: Tensor) -> tuple[Tensor, Tensor]:
    """One-channel infrared and three-channel visible of one size, or an error that says what."""
    for name, picture, allowed in (("ir", ir, (1, 3)), ("vi", vi, (1, 3))):
        if picture.ndim != 4 or picture.shape[1] not in allowed:
            raise BadRequest(f"{name} must be (B, 1 or 3, H, W), got {tuple(picture.shape)}.")
        if not picture.is_floating_point():
            raise BadRequest(f"{name} holds {picture.dtype}; give floats in [0, 1].")
        if not torch.isfinite(picture).all():
            raise BadRequest(f"{name} holds NaN or infinite values.")
        if picture.numel() and (picture.min() < -1e-4 or picture.max() > 1 + 1e-4):
            raise BadRequest(
                f"{name} lies in [{picture.min():.3g}, {picture.max():.3g}], not in [0, 1]."
            )
    if ir.shape[-2:] != vi.shape[-2:] or len(ir) != len(vi):
        raise BadRequest(
            f"ir is {tuple(ir.shape)} and vi {tuple(vi.shape)}: a pair has one size and both "
            "pictures are aligned to the pixel."
        )
    from fusionkit.color import luma

    return luma(ir).clamp(0, 1), vi.expand(-1, 3, -1, -1).clamp(0, 1)


def _pad(batch: Batch, multiple: int) -> tuple[Batch, tuple[int, int]]:
    size = tuple(batch.visible.shape[-2:])

    def pad(picture: Tensor) -> Tensor:
        return pad_to_multiple(picture, multiple)[0]

    guides = {k: pad(m) if m.shape[-2:] == size else m for k, m in batch.guides.items()}
    padded = batch.replace(visible=pad(batch.visible), infrared=pad(batch.infrared), guides=guides)
    return padded, size


def channels_last(batch: Batch) -> Batch:
    """The batch with its two pictures in channels-last memory, the fast layout for convolutions."""
    form = torch.channels_last
    return batch.replace(
        visible=batch.visible.contiguous(memory_format=form),
        infrared=batch.infrared.contiguous(memory_format=form),
    )
