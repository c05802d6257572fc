"""Known data sets: what is expected where, what is there, what can be fetched, what is wrong."""

import os
import shutil
import sys
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fusionkit.errors import BadRequest, FusionkitError

if TYPE_CHECKING:
    from fusionkit.data import Problem
    from fusionkit.registry import Registry


@dataclass(frozen=True, slots=True)
class Download:
    """A file of a data set at a stable public address. Data sets list theirs in ``downloads``."""

    url: str
    checksum: str
    """``md5:...`` or ``sha256:...`` of the file."""
    inside: str = ""
    """The folder within the archive that holds the data; empty where it has none around it."""
    into: str = ""
    """The folder of the data set that its content becomes; empty for the data set's own."""
    note: str = ""
    """Who serves it, and who says that this is its checksum."""


class CannotFetch(FusionkitError):
    """A download that failed: no network, another file than expected, no room."""


def describe(registry: "Registry") -> list[dict[str, Any]]:
    """One row per data set, plain values: name, where it is looked for, whether it is there."""
    from fusionkit.data import find_data

    rows = []
    for name in registry.names("dataset"):
        entry = registry.entry("dataset", name)
        known = entry.factory
        folder = getattr(known, "folder", None)
        found = None if folder is None else find_data(folder)
        rows.append(
            {
                "name": name,
                "plugin": entry.plugin,
                "folder": folder,
                "found": None if found is None else str(found),
                "layout": getattr(known, "layout", ""),
                "licence": getattr(known, "licence", ""),
                "source": getattr(known, "source", ""),
                "downloads": [asdict(one) for one in getattr(known, "downloads", ())],
            }
        )
    return rows


def outline(rows: list[dict[str, Any]]) -> str:
    """The rows for a person to read."""
    blocks = []
    for row in rows:
        if row["folder"] is None:
            state = (
                "needs no folder" if row["layout"].startswith("none") else "any folder: data_root"
            )
        else:
            state = row["found"] or f"not found; looked for as $FUSIONKIT_DATA/{row['folder']}"
        lines = [f"{row['name']} ({row['plugin']}): {state}"]
        lines += [f"    {key:<9}{row[key]}" for key in ("layout", "licence", "source") if row[key]]
        if row["downloads"] and not row["found"]:
            lines.append(f"    fetch    fusionkit datasets --download {row['name']}")
        blocks.append("\n".join(lines))
    return "\n".join(blocks)


def download(
    name: str,
    registry: "Registry",
    to: str | os.PathLike | None = None,
    *,
    say: Callable[[str], None] = print,
) -> Path:
    """Fetch a data set that has a stable public address; returns its folder.

    Every file is compared with its checksum before it is unpacked, and the folder appears whole or
    not at all.

    Args:
        name: a data set with ``downloads``.
        registry: where it is looked up.
        to: the folder above the data set's; without it, the one that FUSIONKIT_DATA names.
        say: told what is fetched from where, and on what terms.

    Raises:
        BadRequest: no such address, no place to put it, something already there, or no pooch.
        CannotFetch: it did not arrive, or is not the expected file.
    """
    known = registry.entry("dataset", name).factory
    files = getattr(known, "downloads", ())
    if not files:
        raise BadRequest(
            f"data set {name!r} has no public address to fetch it from. Source: "
            f"{getattr(known, 'source', 'unknown')}; expected layout: {known.layout}."
        )
    above = to or os.environ.get("FUSIONKIT_DATA")
    if not above:
        raise BadRequest("say where to put it: --to FOLDER, or set FUSIONKIT_DATA.")
    target = Path(above) / known.folder
    if target.exists() and any(target.iterdir()):
        raise BadRequest(f"{target} is already there: remove it first to fetch it anew.")
    say(f"{name}: licence {known.licence}; source {known.source}")
    partial = target.with_name(f".{target.name}-partial")
    shutil.rmtree(partial, ignore_errors=True)
    archives = []
    try:
        for file in files:
            say(f"{file.url} ({file.note})" if file.note else file.url)
            archives.append(_fetch(file, target.with_name(f".{target.name}-downloads")))
        for file, archive in zip(files, archives, strict=True):
            unpacked = partial / "unpacked"
            _unpack(archive, unpacked)
            inner = unpacked / file.inside
            if not inner.is_dir():
                raise CannotFetch(f"{file.url} holds no folder {file.inside!r}.")
            _merge(inner, partial / "whole" / file.into)
            shutil.rmtree(unpacked)
        if target.exists():
            target.rmdir()
        (partial / "whole").rename(target)
    except OSError as error:
        raise CannotFetch(f"cannot write {target} ({error}).") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(target.with_name(f".{target.name}-downloads"), ignore_errors=True)
    return target


def _fetch(file: Download, folder: Path) -> Path:
    try:
        import pooch
    except ImportError as error:
        raise BadRequest(
            "fetching data sets needs pooch: pip install 'fusionkit[data]'."
        ) from error
    pooch.get_logger().setLevel("WARNING")
    name = Path(urlsplit(file.url).path).name
    try:
        return Path(
            pooch.retrieve(
                file.url, known_hash=file.checksum, fname=name, path=folder,
                downloader=pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=60),
            )
        )  # fmt: skip
    except ValueError as error:  # the checksum
        raise CannotFetch(
            f"{file.url} is not the expected file ({file.checksum}): it was changed there, or on "
            "the way. Nothing was unpacked."
        ) from error
    except Exception as error:  # of the network
        raise CannotFetch(f"{file.url} could not be fetched ({error}).") from error


def _unpack(archive: Path, folder: Path) -> None:
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as content:
                content.extractall(folder)
        else:
            with tarfile.open(archive) as content:
                content.extractall(folder, filter="data")
    except (tarfile.TarError, zipfile.BadZipFile) as error:
        raise CannotFetch(
            f"{archive.name} is no archive that can be unpacked ({error})."
        ) from error


def _merge(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for entry in source.iterdir():
        shutil.move(entry, target / entry.name)


def report(which: str, registry: "Registry", root: str | None = None) -> "list[Problem]":
    """Everything that is wrong with a data set by name, or with a folder of pairs; reads all of it.

    Raises:
        BadRequest: no data set and no folder of that name, or a data set that is not there.
    """
    from fusionkit.data import FaultyPairs, FolderPairs, Problem, check_pairs

    if which not in registry.names("dataset"):
        if not Path(which).is_dir():
            registry.entry("dataset", which)  # says which names there are
        return check_pairs(which)
    given: dict[str, Any] = {} if root is None else {"root": root}
    if registry.accepts("dataset", which, "faulty"):
        given["faulty"] = "keep"
    problems: list[Problem] = []
    refused: dict[str, BadRequest] = {}
    for split in ("all", "train", "test"):
        try:
            pairs = registry.create("dataset", which, split=split, **given)
        except FaultyPairs as error:
            problems += error.problems
        except BadRequest as error:
            refused[split] = error
            continue
        else:
            problems += (
                check_pairs(pairs) if isinstance(pairs, FolderPairs) else _walk(pairs, split)
            )
        if split == "all":
            return problems
    if {"train", "test"} <= refused.keys():
        raise refused["train"]
    return problems + [Problem("split", s, str(e)) for s, e in refused.items() if s != "all"]


def _walk(pairs: Any, split: str) -> "list[Problem]":
    """What cannot be read of a set with a reader of its own."""
    from fusionkit.data import Problem

    problems = []
    for index in range(len(pairs)):
        try:
            pairs[index]
        except (ValueError, OSError) as error:
            problems.append(Problem("unreadable", f"{split} {index}", str(error)))
    return problems
