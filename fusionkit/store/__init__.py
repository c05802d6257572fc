"""Runs on disk: everything a run produced, in one Zarr v3 store that xarray opens by name.

========================  =========================================  ==============================
group                     variables                                  dimensions
========================  =========================================  ==============================
``images``                ``ir``, ``vi``, ``fused``, others          pair, band, y, x
``features/<layer>``      ``maps``                                   pair, channel, y, x
``heatmaps/<name>``       ``maps``                                   pair, prompt, y, x
``scores``                ``score``, others                          pair, metric
``history``               ``value``                                  arm, seed, step, term
``control``               ``<measure>``, ``<measure>_scene``         arm, seed (, scene)
========================  =========================================  ==============================

Images are float32 in [0, 1] with three bands (a one-band picture is the same in all three). Maps
are half floats where their range allows. Pictures smaller than the largest one lie in the upper
left corner, NaN outside, and ``height`` and ``width`` tell their true size. Float arrays are NaN
where nothing was written, and ``written`` is set after the data it speaks of: a crash leaves holes,
never plausible zeros. Labels (pair names, arms, metrics ...) are lists among the attributes,
``pairs`` at the root and the others on their group; :func:`open_run` attaches them as coordinates.

One writer per pair, and per arm and seed, is safe from any number of processes. Declaring, growing
and text attributes are guarded by a lock in a local folder; on remote places, declare everything
from one process before the others join.

This package is the only one that spells group and dimension names. It never imports torch, and
imports xarray and zarr when first needed.
"""

from fusionkit.store.errors import Damaged, NotComputed, RunMismatch, StoreError, StoreFull
from fusionkit.store.info import find_run, run_info
from fusionkit.store.reading import (
    contents,
    kept_pairs,
    open_run,
    read_channel,
    read_features,
    read_heatmaps,
    read_history,
    read_image,
    read_scores,
)
from fusionkit.store.run import Run, create_run
from fusionkit.store.table import checkpoint_folder, read_table

__all__ = [
    "Damaged",
    "NotComputed",
    "Run",
    "RunMismatch",
    "StoreError",
    "StoreFull",
    "checkpoint_folder",
    "contents",
    "create_run",
    "find_run",
    "kept_pairs",
    "open_run",
    "read_channel",
    "read_features",
    "read_heatmaps",
    "read_history",
    "read_image",
    "read_scores",
    "read_table",
    "run_info",
]
