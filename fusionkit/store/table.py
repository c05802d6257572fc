"""What a run measured of each pair, as columns."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fusionkit.store.layout import ARM, CONTROL, METRIC, PAIR, SCENE, SCORES, WRITTEN
from fusionkit.store.location import Location
from fusionkit.store.reading import _Source

if TYPE_CHECKING:
    import xarray

    Stored = str | os.PathLike | xarray.DataTree


def read_table(run: "Stored") -> dict[str, np.ndarray]:
    """Scores and measures of text control of all pairs: name -> ``(pair,)``, NaN where unknown.

    A column is called by its metric, with the score variable or the arm behind it where there are
    several: ``EN``, ``EN, baseline``, ``gain, film``. A measure of control is the mean over the
    seeds and over the questions that were asked about the pair; runs that kept no names of their
    scenes have none.
    """
    source = _Source(run)
    pairs = source.root.get(f"{PAIR}s", [])
    table: dict[str, np.ndarray] = {}
    metrics = source.attributes(SCORES).get(f"{METRIC}s", [])
    names = [n for n in source.names(SCORES) if n not in (WRITTEN, METRIC, PAIR)]
    for name in sorted(names, key=lambda name: (name != "score", name)):
        values = source.read(f"{SCORES}/{name}", slice(None), f"scores {name!r}")
        if values.ndim != 2:
            continue
        for metric, column in zip(metrics, values.T, strict=False):
            known = column[: len(pairs)]  # an array can be longer or shorter while a run grows
            table[metric if name == "score" else f"{metric}, {name}"] = np.append(
                known, np.full(len(pairs) - len(known), np.nan)
            )
    attributes = source.attributes(CONTROL)
    place = {pair: index for index, pair in enumerate(pairs)}
    scenes = [
        place.get(scene, place.get(scene.rpartition("#")[0], -1))
        for scene in attributes.get(f"{SCENE}s", [])
    ]
    for name in source.names(CONTROL):
        if not name.endswith(f"_{SCENE}"):
            continue
        values = np.asarray(source.read(f"{CONTROL}/{name}", slice(None), f"measure {name!r}"))
        for arm, rows in zip(attributes.get(f"{ARM}s", []), values, strict=False):
            column = np.full(len(pairs), np.nan)
            of_pair: dict[int, list[Any]] = {}
            for index, row in zip(scenes, rows.T, strict=False):
                if index >= 0 and np.isfinite(row).any():
                    of_pair.setdefault(index, []).append(row[np.isfinite(row)].mean())
            for index, found in of_pair.items():
                column[index] = np.mean(found)
            if of_pair:
                table[f"{name.removesuffix(f'_{SCENE}')}, {arm}"] = column
    return table


def checkpoint_folder(path: str | os.PathLike) -> Path:
    """Where the weights of a run are kept: beside the store; of a remote one, under ``runs``."""
    place = Location(path)
    return Path(f"{place.url if place.local is not None else f'runs/{place.name}'}.checkpoints")
