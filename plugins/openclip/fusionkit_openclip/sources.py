"""Which architecture, which weights, which preprocessing: settled before anything is built.

open_clip answers a missing weight with half a minute of retries, an unknown name with a list of a
hundred others, a bare weight file with the default normalisation whatever the model was trained
with (its issue 1068), and no weights at all with random ones. Here every one of these is one line.
"""

import hashlib
import json
import os
import zipfile
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from fusionkit import errors
from fusionkit.errors import BadRequest, did_you_mean

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "open_clip_model.safetensors"
WEIGHTS_VARIABLE = "FUSIONKIT_WEIGHTS"
"""Folder of weights on this machine; ``openclip/MODEL/TAG/`` under it is looked at first."""
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
LOCAL, HUB = "local-dir:", "hf-hub:"
_IMAGE_KEYS = ("mean", "std", "interpolation", "resize_mode", "fill_color")


class MissingWeights(errors.MissingWeights, FileNotFoundError):
    """Weights that are neither on this machine nor to be had. One line, with the cure."""

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True, slots=True)
class Source:
    """An open_clip model before it is built."""

    model: str
    """Name of the architecture, as shown to people."""
    config: Mapping[str, Any]
    """open_clip's ``model_cfg``."""
    preprocess: Mapping[str, Any]
    """What is known of ``mean``, ``std``, ``interpolation``, ``resize_mode``, ``fill_color``."""
    preprocess_from: str
    """Who says so."""
    checkpoint: Path | None
    """The weights; None for an untrained model."""
    pretrained: str
    """Tag or file name of the weights, or ``untrained``."""
    tokenizer: str | None = None
    """What open_clip's ``get_tokenizer`` is to be asked for; None takes the built-in one."""
    untrained: bool = False


def find(
    model: str,
    pretrained: str | None,
    *,
    config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    untrained: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
    overrides: Iterable[str] = (),
) -> Source:
    """Settle what a user asked for.

    Args:
        model: an architecture of open_clip, ``ARCHITECTURE:TAG``, ``local-dir:FOLDER`` or a
            folder, ``hf-hub:OWNER/NAME``.
        pretrained: a tag, a file, a folder, or None (then ``untrained`` must be set).
        config: an architecture of one's own in place of ``model``: a mapping or a JSON file.
        untrained: random weights are wanted.
        cache_dir: where downloads are kept; None is the hub's own place.
        overrides: preprocess fields the user gives, so that they need not be known.

    Raises:
        BadRequest: an unknown name, or a combination that makes no sense.
        MissingWeights: the weights are not here and cannot be fetched.
    """
    if untrained and pretrained is not None:
        raise BadRequest(
            f"untrained=True asks for random weights and pretrained={pretrained!r} for trained "
            "ones; pass pretrained=None with it."
        )
    if config is not None:
        return _from_config(config, pretrained, untrained, tuple(overrides))
    model = str(model)
    if model.startswith(HUB):
        return _from_hub(model, cache_dir)
    if model.startswith((LOCAL, "/", ".", "~")) or Path(model, CONFIG_FILE).is_file():
        return _from_folder(Path(model.removeprefix(LOCAL)).expanduser())
    model, _, tag = model.partition(":")
    model = _known_architecture(model)
    pretrained = tag or pretrained
    if pretrained is None:
        return _untrained(model, untrained)
    return _named(model, str(pretrained), cache_dir, tuple(overrides))


# -- the five kinds of source --------------------------------------------------------------------


def _from_config(
    config: Any, pretrained: str | None, untrained: bool, overrides: tuple[str, ...]
) -> Source:
    name = "custom"
    if not isinstance(config, Mapping):
        path = Path(config).expanduser()
        name, config = path.stem, _read_json(path)
    settings = dict(config.get("preprocess_cfg", {}))
    config = deepcopy(dict(config.get("model_cfg", config)))
    lacking = [k for k in ("embed_dim", "vision_cfg", "text_cfg") if k not in config]
    if lacking:
        raise BadRequest(f"the configuration {name!r} lacks {', '.join(lacking)}.")
    if untrained:
        whose = "configuration" if settings else "open_clip's defaults"
        return Source(name, config, settings, whose, None, "untrained", untrained=True)
    if pretrained is None or not Path(pretrained).expanduser().is_file():
        raise BadRequest(
            f"the configuration {name!r} needs weights of its own: pass pretrained=FILE, or "
            f"pretrained=None with untrained=True for random ones (pretrained is {pretrained!r})."
        )
    path = Path(pretrained).expanduser()
    if not settings:
        settings, whose = _preprocess_of_file(path, None, overrides)
    else:
        whose = "configuration"
    return Source(name, config, settings, whose, path, path.name)


def _from_folder(folder: Path, expected: str | None = None) -> Source:
    if not folder.is_dir():
        raise MissingWeights(
            f"there is no folder {str(folder)!r}; a local model is a folder with {CONFIG_FILE} "
            f"and {WEIGHTS_FILE}."
        )
    if not (folder / CONFIG_FILE).is_file():
        raise MissingWeights(
            f"the folder {str(folder)!r} has no {CONFIG_FILE}, which says what the architecture is "
            "and how pictures are prepared; copy it from where the weights come from."
        )
    stored = _read_json(folder / CONFIG_FILE)
    if "model_cfg" not in stored:
        raise BadRequest(f"{str(folder / CONFIG_FILE)!r} has no entry model_cfg.")
    checkpoint = _checkpoint_in(folder)
    if checkpoint is None:
        raise MissingWeights(
            f"the folder {str(folder)!r} has no weights; put {WEIGHTS_FILE} beside {CONFIG_FILE}."
        )
    config = deepcopy(stored["model_cfg"])
    ours = stored.get("fusionkit", {})
    if expected is not None:
        _check_same(config, expected, folder)
    if "mean" not in stored.get("preprocess_cfg", {}):
        raise BadRequest(
            f"{str(folder / CONFIG_FILE)!r} does not say in preprocess_cfg how pictures are "
            "normalised (mean, std); without it the features would be silently wrong."
        )
    return Source(
        model=ours.get("model") or expected or _recognise(config) or folder.resolve().name,
        config=config,
        preprocess=stored["preprocess_cfg"]
        | ({"antialias": ours["antialias"]} if "antialias" in ours else {}),
        preprocess_from=CONFIG_FILE,
        checkpoint=checkpoint,
        pretrained=ours.get("pretrained") or folder.resolve().name,
        tokenizer=f"{LOCAL}{folder}",
        untrained=bool(ours.get("untrained", False)),
    )


def _from_hub(model: str, cache_dir: Any) -> Source:
    from open_clip.pretrained import download_pretrained_from_hf

    repository = model.removeprefix(HUB)
    wanted = f"weights {model!r}"
    places = f"or pass model='{LOCAL}FOLDER' with a copy of that repository"
    config = _cached(repository, (CONFIG_FILE,), cache_dir)
    if config is None:
        _must_be_online(wanted, places)
        config = _fetch(
            wanted,
            places,
            lambda: download_pretrained_from_hf(repository, CONFIG_FILE, cache_dir=cache_dir),
        )
    checkpoint = _cached(repository, (WEIGHTS_FILE, "open_clip_pytorch_model.bin"), cache_dir)
    if checkpoint is None:
        _must_be_online(wanted, places)
        checkpoint = _fetch(
            wanted, places, lambda: download_pretrained_from_hf(repository, cache_dir=cache_dir)
        )
    stored = _read_json(Path(config))
    if "model_cfg" not in stored:
        raise BadRequest(f"{model!r} is no open_clip model: its configuration has no model_cfg.")
    return Source(
        model=_recognise(stored["model_cfg"]) or repository,
        config=stored["model_cfg"],
        preprocess=stored.get("preprocess_cfg", {}),
        preprocess_from=CONFIG_FILE,
        checkpoint=Path(checkpoint),
        pretrained=model,
        tokenizer=model,
    )


def _untrained(model: str, untrained: bool) -> Source:
    import open_clip

    if not untrained:
        raise BadRequest(
            f"pretrained=None would give {model} random weights. Pass a tag "
            f"({', '.join(_tags(model)[:4]) or 'none is published'}), a file or a folder; or say "
            "untrained=True where random weights are wanted."
        )
    settings, whose = _preprocess_of_architecture(model)
    return Source(
        model,
        open_clip.get_model_config(model),
        settings or {},
        whose if settings else "open_clip's defaults",
        None,
        "untrained",
        tokenizer=model,
        untrained=True,
    )


def _named(model: str, pretrained: str, cache_dir: Any, overrides: tuple[str, ...]) -> Source:
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    path = Path(pretrained.removeprefix(LOCAL)).expanduser()
    if path.is_dir():
        return _from_folder(path, expected=model)
    config = open_clip.get_model_config(model)
    if path.is_file():
        settings, whose = _preprocess_of_file(path, model, overrides)
        return Source(model, config, settings, whose, path, path.name, tokenizer=model)
    tag = get_pretrained_cfg(model, pretrained)
    if not tag:
        _refuse_tag(model, pretrained)
    _check_activation(model, pretrained, config, tag)
    settings = {key: tag[key] for key in _IMAGE_KEYS if key in tag}
    source = Source(model, config, settings, f"tag {pretrained}", None, pretrained, model)
    folder = _weights_folder(model, pretrained)
    if folder is not None and (folder / CONFIG_FILE).is_file():
        found = _from_folder(folder, expected=model)
        return replace(
            found,
            model=model,
            pretrained=pretrained,
            preprocess={**settings, **found.preprocess},  # old folders give mean and std only
            tokenizer=model,
        )
    checkpoint = _checkpoint_in(folder) if folder else None
    return replace(source, checkpoint=checkpoint or _download(model, pretrained, tag, cache_dir))


# -- weights -------------------------------------------------------------------------------------


def _download(model: str, pretrained: str, tag: Mapping[str, Any], cache_dir: Any) -> Path:
    """The file of a tag: from the hub's cache, from OpenAI's own cache, or from the network."""
    from open_clip.pretrained import download_pretrained

    repository, name = os.path.split(tag.get("hf_hub", ""))
    names = (name,) if name else (WEIGHTS_FILE, "open_clip_pytorch_model.bin")
    here = _cached(repository, names, cache_dir) or _openai_cache(tag.get("url", ""), cache_dir)
    if here is not None:
        return Path(here)
    wanted = f"weights {pretrained!r} of {model}"
    target = f"openclip/{model}/{pretrained}/"
    places = (
        f"or put {WEIGHTS_FILE} and {CONFIG_FILE}"
        + (f" of {repository}" if repository else "")
        + f" into {target} under the folder that the variable {WEIGHTS_VARIABLE} names, or pass "
        "pretrained=FILE_OR_FOLDER"
    )
    _must_be_online(wanted, places)
    return Path(_fetch(wanted, places, lambda: download_pretrained(dict(tag), cache_dir=cache_dir)))


def _must_be_online(wanted: str, places: str) -> None:
    """Fail at once where a download cannot work; the hub's client would retry for half a minute."""
    from huggingface_hub import constants

    said = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
    if said or constants.HF_HUB_OFFLINE:
        reason = "HF_HUB_OFFLINE is set"
    elif not _reachable(constants.ENDPOINT):
        reason = "the model hub cannot be reached"
    else:
        return
    raise MissingWeights(
        f"{wanted} are not on this machine and {reason}. Run once with a network, {places}."
    )


def _reachable(endpoint: str) -> bool:
    """Whether the hub answers within five seconds, asked once and through the user's proxy."""
    from huggingface_hub.utils import get_session

    try:
        get_session().head(endpoint, timeout=5)
    except Exception:  # every client library has its own family of errors, all mean the same here
        return False
    return True


def _fetch(wanted: str, places: str, download: Any) -> str:
    try:
        path = download()
    except Exception as error:  # open_clip wraps whatever the hub's client raised
        reason = " ".join(str(error).split())[:200]
        message = f"{wanted} could not be fetched ({reason}). Try again, {places}."
        raise MissingWeights(message) from error
    if not path:
        cure = places.removeprefix("or ")
        raise MissingWeights(f"{wanted} have no address in open_clip; {cure}.")
    return path


def _cached(repository: str, names: Iterable[str], cache_dir: Any) -> str | None:
    from huggingface_hub import try_to_load_from_cache

    if not repository:
        return None
    for name in names:
        found = try_to_load_from_cache(repository, name, cache_dir=cache_dir)
        if isinstance(found, str):
            return found
    return None


def _openai_cache(url: str, cache_dir: Any) -> Path | None:
    """A file that OpenAI's own ``clip`` package has fetched, if it is undamaged.

    Whoever has run one of the published fusion methods has it already.
    """
    parts = url.split("/")
    path = Path(cache_dir or "~/.cache/clip").expanduser() / parts[-1]
    if "clip" not in parts or not path.is_file():  # .../clip/models/SHA256/NAME.pt has its digest
        return None
    return path if digest(path) == parts[-2] else None


def _weights_folder(model: str, pretrained: str) -> Path | None:
    root = os.environ.get(WEIGHTS_VARIABLE)
    folder = Path(root).expanduser() / "openclip" / model / pretrained if root else None
    return folder if folder is not None and folder.is_dir() else None


def _checkpoint_in(folder: Path) -> Path | None:
    """The weights in a folder: open_clip's own name first, safe formats before pickles."""
    files = [path for path in sorted(folder.iterdir()) if path.suffix in SUFFIXES]
    files.sort(key=lambda p: (p.name != WEIGHTS_FILE, SUFFIXES.index(p.suffix)))
    return files[0] if files else None


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def is_torchscript(path: Path) -> bool:
    """Whether a file is a TorchScript archive, the form in which OpenAI released its weights."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


# -- names and settings --------------------------------------------------------------------------


def _known_architecture(model: str) -> str:
    import open_clip

    name, known = model.replace("/", "-"), open_clip.list_models()
    if name not in known:
        raise BadRequest(
            f"open_clip has no architecture {model!r}.{did_you_mean(name, known)} All of them: "
            "python -c 'import open_clip; print(open_clip.list_models())'; an own one: "
            f"config=FILE; a folder: model='{LOCAL}FOLDER'.",
            asked=model,
            known=known,
        )
    return name


def _tags(model: str) -> list[str]:
    import open_clip

    return list(open_clip.list_pretrained_tags_by_model(model))


def _refuse_tag(model: str, pretrained: str) -> None:
    tags = _tags(model)
    if Path(pretrained).suffix in SUFFIXES or os.sep in pretrained or pretrained.startswith(LOCAL):
        raise MissingWeights(f"there is no file or folder {pretrained!r} with weights of {model}.")
    if not tags:
        raise BadRequest(
            f"no weights are published for {model}; pass pretrained=FILE_OR_FOLDER.",
            asked=pretrained,
        )
    raise BadRequest(
        f"{model} has no weights {pretrained!r}.{did_you_mean(pretrained, tags)} Available: "
        f"{', '.join(tags)}; or a file, or a folder.",
        asked=pretrained,
        known=tags,
    )


def _check_activation(
    model: str, pretrained: str, config: dict[str, Any], tag: Mapping[str, Any]
) -> None:
    """Weights trained with one activation in a network with the other give wrong features."""
    import open_clip

    wanted, has = bool(tag.get("quick_gelu", False)), bool(config.get("quick_gelu", False))
    if wanted == has:
        return
    other = f"{model}-quickgelu" if wanted else model.removesuffix("-quickgelu")
    if other in open_clip.list_models():
        raise BadRequest(
            f"weights {pretrained!r} were trained with {'QuickGELU' if wanted else 'GELU'}, which "
            f"{model} does not use: its features would be wrong. Pass model={other!r}.",
            asked=model,
            known=(other,),
        )
    config["quick_gelu"] = wanted


def _preprocess_of_architecture(model: str) -> tuple[dict[str, Any] | None, str]:
    """The settings on which all published weights of an architecture agree."""
    from open_clip.pretrained import get_pretrained_cfg

    found = []
    for tag in _tags(model):
        settings = get_pretrained_cfg(model, tag)
        found.append({key: settings[key] for key in _IMAGE_KEYS if key in settings})
    if not found or any(settings != found[0] for settings in found):
        return None, ""
    return found[0], f"all {len(found)} published weights of {model}"


def _preprocess_of_file(
    path: Path, model: str | None, overrides: tuple[str, ...]
) -> tuple[dict[str, Any], str]:
    """How pictures are prepared for a bare file, which itself does not say."""
    beside = path.with_name(CONFIG_FILE)
    if beside.is_file():
        settings = _read_json(beside).get("preprocess_cfg", {})
        if "mean" in settings:
            return settings, f"{CONFIG_FILE} beside the file"
    settings, whose = _preprocess_of_architecture(model) if model else (None, "")
    if settings is not None:
        return settings, whose
    if {"mean", "std"} <= set(overrides):
        return {}, "option preprocess"
    raise BadRequest(
        f"the file {path.name!r} does not say how pictures are normalised, and the published "
        f"weights of {model or 'this architecture'} do not agree; put its {CONFIG_FILE} beside it, "
        "or pass preprocess={'mean': [...], 'std': [...]}.",
    )


def _recognise(config: Mapping[str, Any]) -> str | None:
    """The built-in name of an architecture, if it is one."""
    import open_clip

    known = open_clip.list_models()
    return next((n for n in known if _same(open_clip.get_model_config(n), config)), None)


def _check_same(config: Mapping[str, Any], model: str, folder: Path) -> None:
    import open_clip

    if not _same(open_clip.get_model_config(model), config):
        other = _recognise(config)
        raise BadRequest(
            f"the folder {str(folder)!r} holds {other or 'another architecture'}, not {model}; "
            f"pass model='{LOCAL}{folder}'."
        )


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two configurations mean one network, however much they spell out.

    The input size may differ (positions are interpolated), and so may what is no weight.
    """
    from open_clip.model import CLIPTextCfg, CLIPVisionCfg

    def tower(kind: type, config: Mapping[str, Any]) -> dict[str, Any]:
        defaults = {f.name: f.default for f in fields(kind)}
        aside = ("image_size", "timm_model_pretrained", "hf_model_pretrained")
        return {
            key: value
            for key, value in {**defaults, **config}.items()
            if key not in aside and "tokenizer" not in key
        }

    def essence(config: Mapping[str, Any]) -> str:
        plain = {
            "embed_dim": config["embed_dim"],
            "quick_gelu": bool(config.get("quick_gelu", False)),
            "vision": tower(CLIPVisionCfg, config["vision_cfg"]),
            "text": tower(CLIPTextCfg, config["text_cfg"]),
            "multimodal": config.get("multimodal_cfg"),
        }
        return json.dumps(plain, sort_keys=True, default=str)

    return essence(one) == essence(other)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadRequest(f"there is no file {str(path)!r}.") from None
    except ValueError as error:
        raise BadRequest(f"{str(path)!r} is not JSON: {error}.") from None
    if not isinstance(found, dict):
        raise BadRequest(f"{str(path)!r} holds no configuration.")
    return found
