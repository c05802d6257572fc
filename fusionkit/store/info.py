"""About a run, from its small documents alone: what is written, how far, how to repeat it."""

import contextlib
import json
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fusionkit.store.arrays import arrays_of
from fusionkit.store.errors import StoreError
from fusionkit.store.layout import (
    ARM,
    FEATURES,
    GROUPS,
    HEATMAPS,
    HEIGHT,
    HISTORY,
    IMAGES,
    MAPS,
    METRIC,
    PAIR,
    SCENE,
    SCORES,
    SEED,
    STEP,
    TERM,
    WIDTH,
    WRITTEN,
)
from fusionkit.store.location import Location
from fusionkit.store.session import existing, notice, true_status


def run_info(path: str | os.PathLike, *, storage_options: Mapping | None = None) -> dict[str, Any]:
    """What a run contains, how far it got, and how to repeat it; reads only small documents.

    Keys besides the root attributes (``parameters``, ``recipe``, ``started`` ...): ``path``;
    ``status``, which is ``stopped`` for a run whose process is gone and ``silent`` for one on
    another machine without a sign of life; ``notice``, a sentence unless complete; ``contents``,
    group -> what is written out of how much; ``command``, the command line that repeats it. Neither
    torch nor xarray nor zarr is imported.
    """
    place = Location(path, storage_options)
    attributes = dict(existing(place)["attributes"])
    pairs = attributes.pop(f"{PAIR}s", [])
    command = _command(attributes, place)
    sessions = attributes.pop("sessions", [])
    commit = dict(attributes.get("git") or {})
    commit.pop("diff", None)
    return {
        "path": place.url,
        **attributes,
        "git": commit or None,
        "sessions": [
            f"{s['started']} to {s.get('ended', 'now')} on {s['host']}, process {s['pid']}: "
            f"{s.get('status', 'running')}"
            for s in sessions
        ],
        "status": true_status(attributes | {"sessions": sessions}),
        "notice": notice(attributes | {"sessions": sessions}),
        "pairs": pairs,
        "contents": _written(place, len(pairs)),
        "command": command,
    }


def _written(place: Location, pairs: int) -> dict[str, Any]:
    """Group -> how much of it is written. ``written`` has one small file for each unit done."""

    def shape(path: str) -> list[int]:
        return (place.read(f"{path}/zarr.json") or {}).get("shape", [])

    def labels(group: str, dim: str) -> list:
        document = place.read(f"{group}/zarr.json") or {}
        return document.get("attributes", {}).get(f"{dim}s", [])

    def count(group: str) -> int:
        return place.files(f"{group}/{WRITTEN}/c") if shape(f"{group}/{WRITTEN}") else 0

    found: dict[str, Any] = {}
    for group in (g for g in GROUPS if g in place.names()):
        if group in (FEATURES, HEATMAPS):
            for name in place.names(group):
                if name == "zarr.json":
                    continue
                path = f"{group}/{name}"
                _, bands, height, width = shape(f"{path}/{MAPS}") or (0, 0, 0, 0)
                found[path] = {"written": count(path), "of": pairs}
                found[path] |= {"channels": bands, "height": height, "width": width}
        elif group in (IMAGES, SCORES):
            names = [p.rsplit("/", 1)[1] for p in arrays_of(place, group)]
            names = [name for name in names if name not in (HEIGHT, WIDTH, WRITTEN)]
            found[group] = {"written": count(group), "of": pairs, "variables": names}
            if group == SCORES:
                found[group]["metrics"] = labels(group, METRIC)
        else:
            arms, seeds = labels(group, ARM), labels(group, SEED)
            found[group] = {"arms": arms, "seeds": seeds}
            if group == HISTORY:
                found[group] |= {"steps": len(labels(group, STEP)), "terms": labels(group, TERM)}
            else:
                found[group] |= {"written": count(group), "of": len(arms) * len(seeds)}
                found[group]["scenes"] = len(labels(group, SCENE))
                names = [p.rsplit("/", 1)[1] for p in arrays_of(place, group)]
                found[group]["measures"] = [
                    n for n in names if n not in (WRITTEN, SEED) and not n.endswith(f"_{SCENE}")
                ]
    return found


def _command(attributes: Mapping, place: Location) -> str:
    """The papermill command line with which the same run can be made again."""
    notebook = Path(attributes.get("notebook") or "NOTEBOOK.ipynb").name
    notebook = notebook if notebook.endswith(".ipynb") else f"{notebook}.ipynb"
    words = ["papermill", f"notebooks/{notebook}", f"runs/{Path(place.name).stem}.ipynb"]
    for name, value in attributes.get("parameters", {}).items():
        if isinstance(value, str):
            words += ["-r" if _guessed_otherwise(value) else "-p", name, value]
        elif value is None or isinstance(value, bool | int | float):
            words += ["-p", name, str(value)]
        else:
            words += ["-y", f"{{{name}: {json.dumps(value)}}}"]
    return shlex.join(words)


def _guessed_otherwise(text: str) -> bool:
    """Whether papermill's ``-p`` would make something else than text of this."""
    if text in ("True", "False", "None", "true", "false", "null", ""):
        return True
    try:
        float(text)
    except ValueError:
        return False
    return True


def find_run(path: str | os.PathLike | None = None) -> str:
    """Where a run is, for a process in the repository's root or in its folder of notebooks.

    A path that leads nowhere is also tried from one folder up. None, or the word ``newest``, is
    the run under ``runs`` that was begun last. Raises :class:`StoreError` when there is none.
    """
    if path is not None and path != "newest":
        above = Path("..") / Path(path)
        remote = "://" in os.fspath(path)
        found = remote or Path(path).expanduser().exists() or not above.exists()
        return os.fspath(path if found else above)
    runs = []
    for folder in (Path("runs"), Path("../runs")):
        for candidate in folder.glob("*.zarr") if folder.is_dir() else ():
            with contextlib.suppress(StoreError):
                runs.append((existing(Location(candidate))["attributes"]["started"], candidate))
        if runs:
            return str(max(runs)[1])
    raise StoreError(
        f"no run under {Path('runs').absolute()}: make one (for example with ablation.ipynb), or "
        "give the path of a store."
    )
