"""From a settled source to a frozen network and its tokenizer. Here open_clip is imported."""

import argparse
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fusionkit.errors import BadRequest
from fusionkit_openclip.sources import CONFIG_FILE, Source, is_torchscript

PRECISIONS = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


def build(
    source: Source,
    *,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    image_size: int | tuple[int, int] | None = None,
    seed: int = 0,
) -> nn.Module:
    """The model, in evaluation mode, nothing in it wanting a gradient.

    Weights may be safetensors, a plain state dict, a training checkpoint that contains a CLIP
    under some prefix (released Text-IF checkpoints do), or OpenAI's TorchScript archives.

    Raises:
        BadRequest: the file cannot be read or does not fit the architecture.
    """
    import open_clip

    with TemporaryDirectory() as folder, _quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # matters for an untrained model only
        stored = {"model_cfg": dict(source.config), "preprocess_cfg": {}}
        Path(folder, CONFIG_FILE).write_text(json.dumps(stored), encoding="utf-8")
        try:
            model = open_clip.create_model(
                f"local-dir:{folder}",
                load_weights=False,
                pretrained_text=False,
                pretrained_image=False,
                precision=PRECISIONS[dtype],
                force_image_size=image_size,
            )
        except Exception as error:  # of open_clip, timm or transformers, for many reasons
            raise BadRequest(
                f"open_clip cannot build {source.model}: {_first_line(error)}"
            ) from error
        if source.checkpoint is not None:
            _load(model, source, Path(folder))
    model.eval()
    # Locking the towers leaves logit_scale wanting a gradient, so every parameter is set.
    model.requires_grad_(False)
    return model.to(device)


def make_tokenizer(source: Source, cache_dir: Any = None) -> Callable[[list[str]], Tensor]:
    """Prompts to token ids ``(B, L)``.

    Raises:
        BadRequest: the model wants a tokenizer that is not here.
    """
    import open_clip
    from open_clip.tokenizer import SimpleTokenizer

    text = dict(source.config["text_cfg"])
    if source.tokenizer is None:
        tokenizer = SimpleTokenizer(
            context_length=text.get("context_length", 77), **text.get("tokenizer_kwargs", {})
        )
    else:
        try:
            with _quiet():
                tokenizer = open_clip.get_tokenizer(source.tokenizer, cache_dir=cache_dir)
        except Exception as error:  # whatever the tokenizer's own library raises
            lacking = "" if _has_transformers() else " (pip install transformers sentencepiece)"
            raise BadRequest(
                f"the tokenizer of {source.model} cannot be had{lacking}: {_first_line(error)}"
            ) from error
    words, rows = getattr(tokenizer, "vocab_size", 0), text.get("vocab_size", 49408)
    if words > rows:
        raise BadRequest(
            f"{source.model} has {rows} word vectors and the tokenizer {words} words; set "
            f"text_cfg vocab_size to {words}."
        )
    return tokenizer


def _load(model: nn.Module, source: Source, scratch: Path) -> None:
    import open_clip

    path = source.checkpoint
    try:
        path = _plain(path, scratch)
        open_clip.load_checkpoint(model, str(path), strict=True, weights_only=True)
    except BadRequest:
        raise
    except (RuntimeError, KeyError, SafetensorError, ValueError, AssertionError) as error:
        raise BadRequest(
            f"the weights in {source.checkpoint.name!r} do not fit {source.model}: "
            f"{_first_line(error)}"
        ) from error
    except Exception as error:  # pickle's own errors, end of file, ...
        raise BadRequest(
            f"{source.checkpoint.name!r} cannot be read as weights: {_first_line(error)}"
        ) from error


def _plain(path: Path, scratch: Path) -> Path:
    """The file itself where open_clip reads it, else a plain copy of the CLIP in it."""
    if path.suffix in (".npz", ".npy"):
        return path
    state = _read(path)
    prefix = _prefix(state, path)
    if prefix is None or (prefix == "" and path.suffix == ".safetensors"):
        return path  # open_clip knows some foreign formats, and reads its own
    plain = scratch / "plain.safetensors"
    # OpenAI's archives carry three numbers among their tensors, and half precision.
    skipped = {"input_resolution", "context_length", "vocab_size"}
    save_file(
        {
            key.removeprefix(prefix): value.detach().clone().contiguous()
            for key, value in state.items()
            if key.startswith(prefix) and key.removeprefix(prefix) not in skipped
        },
        plain,
    )
    return plain


def _read(path: Path) -> Mapping[str, Tensor]:
    if path.suffix == ".safetensors":
        return load_file(path)
    if is_torchscript(path):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit is on its way out; these files stay
            return torch.jit.load(str(path), map_location="cpu").state_dict()
    with torch.serialization.safe_globals([argparse.Namespace]):
        found = torch.load(path, map_location="cpu", weights_only=True)
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping):
        raise BadRequest(f"{path.name!r} holds no state dict but a {type(found).__name__}.")
    return {key: value for key, value in found.items() if isinstance(value, Tensor)}


def _prefix(state: Mapping[str, Tensor], path: Path) -> str | None:
    """What stands before the names of the CLIP in a checkpoint: nothing, ``module.``, ...

    None where there is no CLIP with open_clip's names in it.
    """
    leaf = "logit_scale"  # every CLIP has it and little else does
    prefixes = [key.removesuffix(leaf) for key in state if key.endswith(leaf)]
    prefixes = [p for p in prefixes if any(k.startswith(f"{p}visual.") for k in state)]
    if len(prefixes) > 1:
        raise BadRequest(f"{path.name!r} contains several CLIPs: {', '.join(sorted(prefixes))}.")
    return prefixes[0] if prefixes else None


@contextmanager
def _quiet() -> Iterator[None]:
    """open_clip speaks through the root logger, and by that sets up logging for its user.

    Its one message that matters, random weights, is answered by our own rules.
    """
    root, silent = logging.getLogger(), logging.NullHandler()

    def not_open_clip(record: logging.LogRecord) -> bool:
        return "open_clip" not in Path(record.pathname).parts

    root.addHandler(silent)
    root.addFilter(not_open_clip)
    try:
        yield
    finally:
        root.removeFilter(not_open_clip)
        root.removeHandler(silent)


def resolved_config(source: Source, image_size: Any) -> dict[str, Any]:
    """The configuration as built, for storing beside the weights."""
    config = deepcopy(dict(source.config))
    if image_size is not None:
        size = image_size if isinstance(image_size, int) else list(image_size)
        config["vision_cfg"] = {**config["vision_cfg"], "image_size": size}
    return config


def _has_transformers() -> bool:
    from importlib.util import find_spec

    return find_spec("transformers") is not None


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # torch puts "Error(s) in loading state_dict" first and the reason second
    return " ".join(lines[:2])[:300] or type(error).__name__
