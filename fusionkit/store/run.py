"""Writing a run: declare what will come, put it in by name, end complete or failed."""

import atexit
import contextlib
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fusionkit.store import session
from fusionkit.store.arrays import Arrays, consolidated, is_whole
from fusionkit.store.errors import StoreError, explained, nearest, some
from fusionkit.store.layout import (
    ARM,
    BAND,
    BANDS,
    CHANNEL,
    CONTROL,
    FEATURES,
    GROUPS,
    HALF_FLOAT_MAX,
    HALF_FLOAT_RANGE,
    HEATMAPS,
    HEIGHT,
    HISTORY,
    IMAGES,
    LARGEST,
    MAPS,
    METRIC,
    PAIR,
    PROMPT,
    SCENE,
    SCORES,
    SEED,
    STEP,
    TERM,
    VALUE,
    WIDE_MAPS,
    WIDTH,
    WRITTEN,
    X,
    Y,
)
from fusionkit.store.location import Location, plain

logger = logging.getLogger("fusionkit.store")

_HEARTBEAT_SECONDS = 5.0
_FLUSH_SECONDS = 1.0
_CHUNK_CHANNELS = 8
_CHUNK_BYTES = 4 * 2**20
_STEPS_PER_CHUNK = 256

_runs: dict[str, "Run"] = {}
"""Runs that this process writes, by place."""


def create_run(
    path: str | os.PathLike,
    *,
    parameters: Mapping[str, Any],
    recipe: Mapping[str, Any],
    components: Mapping[str, Any],
    seed: Any,
    device: str,
    resume: bool = True,
    notebook: str | None = None,
    storage_options: Mapping | None = None,
) -> "Run":
    """Begin a run, or take up one that is there already.

    ``path`` is a local path or an fsspec address such as ``memory://a.zarr``. ``parameters``,
    ``recipe`` and ``components`` (name -> plugin and version) are kept as attributes and must be
    expressible as JSON. ``notebook`` is the name of the notebook that runs, for the command line
    that repeats it.

    With ``resume`` an existing run of the same parameters and recipe is opened and keeps what it
    holds; ask :meth:`Run.done` before computing. ``store``, ``resume`` and ``device`` may differ.
    Without it an existing run is replaced. A folder that holds anything but a run of fusionkit is
    never touched.

    Use it as a context manager: leaving normally marks the run complete, an exception marks it
    failed. Elsewhere call :meth:`Run.complete` or :meth:`Run.fail`; a process that ends without
    either is recorded as failed where Python still can.

    Raises :class:`RunMismatch` for other parameters, :class:`StoreError` for a place that cannot
    be written or holds something else.
    """
    place = Location(path, storage_options)
    described = {
        "parameters": plain(dict(parameters), "parameters"),
        "recipe": plain(dict(recipe), "recipe"),
        "components": plain(dict(components), "components"),
        "seed": plain(seed, "seed"),
        "device": str(device),
    }
    if notebook:
        described["notebook"] = str(notebook)
    earlier = _runs.get(place.url)
    with explained(place):
        if place.local is not None and place.local.is_file():
            raise StoreError(f"{place} is a file; a run is a folder. Choose another path.")
        if not resume:
            session.clear(place)
            if earlier is not None:
                earlier._unsaved.clear()
        place.make()
        around = session.surroundings()
        with place.lock():
            place.tidy()
            root = session.read_root(place)
            if root is None:
                if found := place.names():
                    raise StoreError(
                        f"{place} is not a run of fusionkit: it holds {some(found)}. Nothing was "
                        "touched; choose another path, or remove the folder yourself."
                    )
                root = session.begin(place, described, around)
            else:
                session.compare(place, root["attributes"], described)
                session.take_up(root, described)
            own = session.join(root, described["device"], around)
            place.write("zarr.json", root)
    if earlier is not None:
        earlier._replaced()
    return Run(place, own)


class Run:
    """A run being written. Made by :func:`create_run`; every array goes in by name.

    Methods that begin with ``declare_`` may be repeated; new names are added to the known ones.
    Methods that begin with ``put_`` write whole units (a picture, the maps of one layer for one
    pair), after which ``done`` answers True for them, also in a later process. All raise
    :class:`StoreError` on a wrong request and :class:`StoreFull` when the disk is full.
    """

    def __init__(self, place: Location, own_session: str) -> None:
        self._place = place
        self._session = own_session
        self._disk = Arrays(place, self._update_root)
        self._open = True
        self._beat = time.monotonic()
        self._progress: Any = None
        self._history: dict[tuple[int, int, int], np.ndarray] = {}
        self._unsaved: set[tuple[int, int, int]] = set()
        self._flushed = time.monotonic()
        self._process = os.getpid()
        _runs[self.path] = self

    @property
    def path(self) -> str:
        """Where the run is written: an absolute path, or the address as given."""
        return self._place.url

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if kind is None:
            self.complete()
            return
        text = f"{kind.__name__}: {error}" if str(error) else kind.__name__
        try:
            self.fail(text)
        except (OSError, ValueError) as trouble:  # the first error is the one to see
            logger.warning("%s: could not record the failure (%s)", self.path, trouble)

    # status

    def complete(self) -> None:
        """End the run as complete, unless another process still writes it or failed meanwhile."""
        self._end("complete", None)

    def fail(self, message: str) -> None:
        """End the run as failed, with a reason. Does nothing once the run has ended.

        Safe to call from a signal handler, so a scheduler's SIGTERM can be recorded.
        """
        self._end("failed", message)

    def progress(self, state: str | float) -> None:
        """Say how far the run is, as words or as a fraction; also a sign of life.

        Written at most every five seconds, so it may be called at every step.
        """
        self._progress = plain(state, "progress")
        self._sign_of_life()

    def note(self, **facts: Any) -> None:
        """Keep further facts among the attributes of the run, such as its result in one line.

        The names that the store itself uses (``status``, ``parameters`` ...) are refused.
        """
        if taken := sorted(session.RESERVED & facts.keys()):
            raise StoreError(f"note(): {some(taken)} belongs to the store; use another name.")
        with self._explained():
            self._update_root(plain(facts, "note"))

    def flush(self) -> None:
        """Write what is still held in memory: the last second of ``history``."""
        with self._explained():
            self._flush_history()

    # pairs

    def declare_pairs(
        self,
        names: Sequence[str],
        height: int,
        width: int,
        sizes: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        """Name the pairs of the run, with the largest ``height`` and ``width`` among them.

        ``sizes`` gives the true (height, width) of each pair where they differ.
        """
        names = [str(name) for name in names]
        if sizes is None:
            sizes = [(height, width)] * len(names)
        if len(sizes) != len(names):
            raise StoreError(f"{len(names)} pairs, but {len(sizes)} sizes: give one for each.")
        for name, (high, wide) in zip(names, sizes, strict=True):
            if not (0 < high <= height and 0 < wide <= width):
                raise StoreError(
                    f"pair {name!r} is {high} x {wide}, outside the declared {height} x {width}: "
                    "height and width must be the largest of all pairs."
                )
        with self._disk.edit():
            known = self._disk.make_room("", PAIR, names)
            self._disk.group(IMAGES)
            heights = self._sizes_of_pairs(len(known), height, width)
            for name, size in zip(names, sizes, strict=True):
                heights[known.index(name)] = size
            for column, variable in enumerate((HEIGHT, WIDTH)):
                path = f"{IMAGES}/{variable}"
                count = (len(known),)
                array = self._disk.create(path, count, count, "int32", 0, (PAIR,))
                array[:] = heights[:, column]
            self._disk.label("", PAIR, known)

    def _sizes_of_pairs(self, count: int, height: int, width: int) -> np.ndarray:
        """Known true sizes with room for ``count`` pairs; also grows the image arrays."""
        sizes = np.zeros((count, 2), dtype=np.int32)
        if (old := self._disk.array(f"{IMAGES}/{HEIGHT}")) is not None:
            sizes[: old.shape[0], 0] = old[:]
            sizes[: old.shape[0], 1] = self._disk.array(f"{IMAGES}/{WIDTH}")[:]
        for name in self._place.names(IMAGES):
            array = self._disk.array(f"{IMAGES}/{name}") if name != "zarr.json" else None
            if array is not None and array.ndim == 4:
                self._disk.grow(f"{IMAGES}/{name}", (count, len(BANDS), height, width))
        return sizes

    def put_image(self, variable: str, pair: str, image: np.ndarray) -> None:
        """Write one picture, ``(band, y, x)`` or ``(y, x)``, one or three bands, in [0, 1].

        ``variable`` is ``ir``, ``vi``, ``fused`` or any further name (``fused_baseline``). Bytes
        are divided by 255. Put ``fused`` last: it sets ``written`` for the pair.
        """
        check_name(variable, "image variable")
        image = np.asarray(image)
        what = f"image {variable!r} of pair {pair!r}"
        if image.ndim == 2:
            image = image[None]
        if image.ndim != 3 or image.shape[0] not in (1, len(BANDS)):
            raise StoreError(
                f"{what} has shape {image.shape}; expected (band, y, x) with 1 or 3 bands."
            )
        image = image.astype(np.float32) / (255 if image.dtype == np.uint8 else 1)
        check_finite(image, what)
        if np.nanmax(image) > 16:
            raise StoreError(
                f"{what} reaches {np.nanmax(image):g}: "
                "pictures are floats in [0, 1]; divide by 255."
            )
        with self._explained():
            index = self._disk.index("", PAIR, pair)
            true = self._disk.true_size(index)
            if image.shape[1:] != true:
                raise StoreError(
                    f"{what} is {image.shape[1]} x {image.shape[2]}, declared as "
                    f"{true[0]} x {true[1]}: pass the true sizes to declare_pairs."
                )
            path = f"{IMAGES}/{variable}"
            if self._disk.array(path) is None:
                with self._disk.edit():
                    shape = (self._disk.count("", PAIR), len(BANDS), *self._disk.largest_size())
                    self._disk.create(
                        path,
                        shape,
                        (1, *shape[1:]),
                        "float32",
                        np.nan,
                        (PAIR, BAND, Y, X),
                        attributes={"coordinates": f"{HEIGHT} {WIDTH}"},
                    )
            image = np.broadcast_to(image, (len(BANDS), *image.shape[1:]))
            self._disk.put(path, index, image)
            if variable == "fused":
                self._disk.mark(IMAGES, (PAIR,), (index,))
            self._sign_of_life()

    def put_features(self, layer: str, pair: str, maps: np.ndarray) -> None:
        """Write the feature maps of one layer for one pair, ``(channel, y, x)``.

        Kept as half floats; a layer whose first maps are too large or too small for them is kept in
        single precision, and single pairs that overflow later go to a variable of their own.
        """
        check_name(layer, "layer")
        with self._explained():
            self._put_maps(f"{FEATURES}/{layer}", CHANNEL, pair, maps, f"maps of layer {layer!r}")

    def put_heatmaps(self, name: str, pair: str, maps: np.ndarray, prompts: Sequence[str]) -> None:
        """Write one heat map per prompt for one pair, ``(prompt, y, x)``.

        Prompts, in words, may differ in wording and number from pair to pair.
        """
        check_name(name, "heat map")
        prompts = [str(prompt) for prompt in prompts]
        if np.ndim(maps) != 3 or len(maps) != len(prompts):
            raise StoreError(
                f"heat maps {name!r} of pair {pair!r} have shape {np.shape(maps)}; expected "
                f"({len(prompts)}, y, x), one for each of the {len(prompts)} prompts."
            )
        with self._explained():
            self._keep_prompts(f"{HEATMAPS}/{name}", pair, prompts)
            self._put_maps(f"{HEATMAPS}/{name}", PROMPT, pair, maps, f"heat maps {name!r}")

    def _keep_prompts(self, group: str, pair: str, prompts: list[str]) -> None:
        """Keep the prompts of the group, and those of a pair only where they differ from them."""
        key = f"{group}/zarr.json"
        attributes = (self._place.read(key) or {}).get("attributes", {})
        if attributes.get("pair_prompts", {}).get(pair, attributes.get("prompts")) == prompts:
            return
        with self._disk.edit():
            self._disk.group(group)
            document = self._place.read(key)
            attributes = document["attributes"]
            if attributes.setdefault("prompts", prompts) == prompts:
                attributes.get("pair_prompts", {}).pop(pair, None)
            else:
                attributes.setdefault("pair_prompts", {})[pair] = prompts
            self._place.write(key, document)
            self._disk.changed = True

    def _put_maps(self, group: str, band: str, pair: str, maps: np.ndarray, what: str) -> None:
        maps = np.asarray(maps)
        what = f"{what} for pair {pair!r}"
        if maps.ndim != 3 or 0 in maps.shape:
            raise StoreError(f"{what} have shape {maps.shape}; expected ({band}, y, x).")
        if maps.dtype not in (np.float16, np.float32):
            maps = maps.astype(np.float32)
        index = self._disk.index("", PAIR, pair)
        check_finite(maps, what)
        finite = np.isfinite(maps)
        largest = float(np.max(np.abs(maps), where=finite, initial=0.0))
        path = f"{group}/{MAPS}"
        if self._disk.array(path) is None:
            with self._disk.edit():
                self._create_maps(group, band, pair, maps.shape, largest)
        shape = self._disk.array(path).shape[1:]
        if band == CHANNEL and maps.shape[0] != shape[0]:
            raise StoreError(
                f"{what} have {maps.shape[0]} channels, earlier pairs had {shape[0]}. "
                "A layer keeps its width; use another layer name."
            )
        if any(new > old for new, old in zip(maps.shape, shape, strict=True)):
            with self._disk.edit():
                for name in (MAPS, WIDE_MAPS):  # of one shape, so that xarray reads the group
                    if self._disk.array(f"{group}/{name}") is not None:
                        self._disk.grow(f"{group}/{name}", (index + 1, *maps.shape))
        array = self._disk.array(path)
        if array.dtype == np.float16 and largest > HALF_FLOAT_MAX:
            path = self._wide_maps(group, array)
        elif array.dtype == np.float16:
            with np.errstate(over="ignore"):
                maps = maps.astype(np.float16)
        self._disk.unmark(group, index)
        self._disk.put(path, index, maps)
        for variable, value in ((HEIGHT, maps.shape[1]), (WIDTH, maps.shape[2])):
            sizes = self._disk.array(f"{group}/{variable}", index)
            if int(sizes[index]) != value:  # the fill value is the size most pairs have
                sizes[index] = value
        self._disk.array(f"{group}/{LARGEST}", index)[index] = largest
        self._disk.mark(group, (PAIR,), (index,))
        self._sign_of_life()

    def _create_maps(
        self, group: str, band: str, pair: str, shape: tuple[int, ...], largest: float
    ) -> None:
        """The arrays of one layer, with room for the largest pair."""
        self._disk.group(group)
        count = self._disk.count("", PAIR)
        index = self._disk.index("", PAIR, pair)
        room = []
        for size, own, largest_own in zip(
            shape[1:],
            self._disk.true_size(index),
            self._disk.largest_size(),
            strict=True,
        ):
            room.append(max(size, -(-size * largest_own // own)))
        low, high = HALF_FLOAT_RANGE
        half = largest == 0 or low <= largest <= high
        dtype = np.dtype("float16" if half else "float32")
        if band == CHANNEL:
            per_chunk = min(_CHUNK_CHANNELS, _CHUNK_BYTES // (room[0] * room[1] * dtype.itemsize))
            per_chunk = max(1, min(per_chunk, shape[0]))
        else:
            per_chunk = shape[0]
        whole = -(-shape[0] // per_chunk) * per_chunk
        for variable, size in ((HEIGHT, room[0]), (WIDTH, room[1])):
            self._disk.create(f"{group}/{variable}", (count,), (1,), "int32", size, (PAIR,))
        self._disk.create(f"{group}/{LARGEST}", (count,), (1,), "float32", np.nan, (PAIR,))
        self._disk.create(
            f"{group}/{MAPS}",
            (count, shape[0], *room),
            (1, per_chunk, *room),
            dtype,
            np.nan,
            (PAIR, band, Y, X),
            shard=(1, whole, *room) if band == CHANNEL else None,
            attributes={"coordinates": f"{HEIGHT} {WIDTH}"},
        )

    def _wide_maps(self, group: str, narrow: Any) -> str:
        """The single-precision array for pairs that overflow a half float; made when needed."""
        path = f"{group}/{WIDE_MAPS}"
        if self._disk.array(path) is None:
            with self._disk.edit():
                narrow = self._disk.array(f"{group}/{MAPS}")
                self._disk.create(
                    path,
                    narrow.shape,
                    narrow.chunks,
                    "float32",
                    np.nan,
                    tuple(narrow.metadata.dimension_names),
                    shard=narrow.shards,
                    attributes={"note": f"pairs too large for half floats; {MAPS} is NaN there"},
                )
        elif self._disk.array(path).shape != narrow.shape:
            with self._disk.edit():
                self._disk.grow(path, narrow.shape)
        return path

    # scores

    def declare_metrics(self, metrics: Sequence[str] | Mapping[str, Mapping[str, Any]]) -> None:
        """Name the metrics; a mapping may add facts about each (direction, unit, range, source)."""
        with self._disk.edit():
            known = self._disk.extend(SCORES, METRIC, list(metrics))
            for name in self._place.names(SCORES):
                array = self._disk.array(f"{SCORES}/{name}") if name != "zarr.json" else None
                if array is not None and array.ndim == 2:
                    self._disk.grow(f"{SCORES}/{name}", (array.shape[0], len(known)))
            if isinstance(metrics, Mapping):
                key = f"{SCORES}/zarr.json"
                document = self._place.read(key)
                facts = document["attributes"].setdefault("metric_facts", {})
                facts.update(plain(dict(metrics), "metrics"))
                self._place.write(key, document)

    def put_scores(self, variable: str, pair: str, scores: Mapping[str, float]) -> None:
        """Write scores of one pair. ``variable`` is ``score``, or ``baseline`` and the like.

        Metrics not given keep the value they had. ``score`` sets ``written`` for the pair.
        """
        check_name(variable, "score variable")
        with self._explained():
            index = self._disk.index("", PAIR, pair)
            columns = [self._disk.index(SCORES, METRIC, name) for name in scores]
            path = f"{SCORES}/{variable}"
            if self._disk.array(path) is None:
                with self._disk.edit():
                    counts = self._disk.count("", PAIR), self._disk.count(SCORES, METRIC)
                    self._disk.create(
                        path,
                        counts,
                        (1, counts[1]),
                        "float64",
                        np.nan,
                        (PAIR, METRIC),
                    )
            array = self._disk.array(path, index, max(columns, default=0))
            row = np.asarray(array[index])
            row[columns] = [float(value) for value in scores.values()]
            array[index] = row
            if variable == "score":
                self._disk.mark(SCORES, (PAIR,), (index,))
            self._sign_of_life()

    # history

    def declare_history(
        self,
        arms: Sequence[str],
        seeds: Sequence[int],
        steps: int | Sequence[int],
        terms: Sequence[str],
    ) -> None:
        """Room for the loss curves of every arm and seed.

        ``steps`` are the step numbers at which terms are recorded, or how many there are.
        """
        steps = list(range(steps)) if isinstance(steps, int) else [int(step) for step in steps]
        with self._disk.edit():
            known = self._disk.labels_of(HISTORY, STEP)
            shorter = min(len(known), len(steps))
            if known[:shorter] != steps[:shorter]:
                raise StoreError(
                    f"the history of {self.path} is recorded at steps {some(known)}, not at "
                    f"{some(steps)}: start a new store, or record at the same steps."
                )
            counts = [
                len(self._disk.extend(HISTORY, ARM, list(arms))),
                len(self._disk.extend(HISTORY, SEED, [int(seed) for seed in seeds])),
                len(self._disk.extend(HISTORY, STEP, steps)),
                len(self._disk.extend(HISTORY, TERM, list(terms))),
            ]
            path = f"{HISTORY}/{VALUE}"
            if self._disk.array(path) is None:
                chunk = (1, 1, min(counts[2], _STEPS_PER_CHUNK), counts[3])
                self._disk.create(path, counts, chunk, "float32", np.nan, (ARM, SEED, STEP, TERM))
            else:
                self._flush_history()
                self._history.clear()
                self._disk.grow(path, counts)

    def put_history(self, arm: str, seed: int, step: int, terms: Mapping[str, float]) -> None:
        """Record terms at the step with this index. Reaches the disk within about a second."""
        with self._explained():
            indices = self._disk.index(HISTORY, ARM, arm), self._disk.index(HISTORY, SEED, seed)
            count = self._disk.count(HISTORY, STEP, more_than=step)
            if not 0 <= step < count:
                raise StoreError(f"step index {step} is outside the {count} declared steps.")
            columns = [self._disk.index(HISTORY, TERM, term) for term in terms]
            last = max(columns, default=0)
            array = self._disk.array(f"{HISTORY}/{VALUE}", *indices, count - 1, last)
            block = array.chunks[2]
            key = (*indices, step // block)
            held = self._history.get(key)
            if held is None or len(held) <= step % block or held.shape[1] <= last:
                self._flush_history()  # another process made room for more
                start = key[2] * block
                self._history[key] = np.asarray(array[key[0], key[1], start : start + block])
            self._history[key][step % block, columns] = [float(v) for v in terms.values()]
            self._unsaved.add(key)
            self._sign_of_life()

    def _flush_history(self) -> None:
        self._flushed = time.monotonic()
        while self._unsaved:
            key = next(iter(self._unsaved))
            array = self._disk.array(f"{HISTORY}/{VALUE}", *key[:2])
            values = self._history[key]
            start = key[2] * array.chunks[2]
            count, terms = values.shape
            array[key[0], key[1], start : start + count, :terms] = values
            self._unsaved.discard(key)
        latest: dict[tuple[int, int], int] = {}
        for arm, seed, block in self._history:
            latest[arm, seed] = max(block, latest.get((arm, seed), 0))
        for key in [k for k in self._history if k[2] < latest[k[:2]]]:
            del self._history[key]

    # control

    def declare_control(
        self, arms: Sequence[str], seeds: Sequence[int], scenes: int | Sequence[str]
    ) -> None:
        """Room for the measures of text control of every arm and seed, over these scenes."""
        if isinstance(scenes, int):
            scenes = [str(scene) for scene in range(scenes)]
        with self._disk.edit():
            counts = {
                ARM: len(self._disk.extend(CONTROL, ARM, list(arms))),
                SEED: len(self._disk.extend(CONTROL, SEED, [int(seed) for seed in seeds])),
                SCENE: len(self._disk.extend(CONTROL, SCENE, [str(scene) for scene in scenes])),
            }
            for name in self._place.names(CONTROL):
                array = self._disk.array(f"{CONTROL}/{name}") if name != "zarr.json" else None
                if array is not None and array.ndim > 1:
                    dims = array.metadata.dimension_names
                    self._disk.grow(f"{CONTROL}/{name}", [counts[dim] for dim in dims])

    def put_control(self, arm: str, seed: int, measures: Mapping[str, float | np.ndarray]) -> None:
        """Write measures of one arm and seed, all at once.

        A measure is one value per scene, kept as ``<measure>_scene`` with its mean over the scenes
        where it is defined (not NaN) as ``<measure>``; or a single number, kept as it is.
        """
        with self._explained():
            index = self._disk.index(CONTROL, ARM, arm), self._disk.index(CONTROL, SEED, seed)
            scenes = self._disk.count(CONTROL, SCENE)
            self._disk.unmark(CONTROL, *index)
            for name, values in measures.items():
                check_name(name, "measure")
                values = np.asarray(values, dtype=np.float64)
                if values.shape not in ((), (scenes,)):
                    raise StoreError(
                        f"measure {name!r} of {arm!r}, seed {seed} has shape {values.shape}; "
                        f"expected one number, or one for each of the {scenes} scenes."
                    )
                mean = values if values.ndim == 0 else _mean(values)
                parts = [(name, (ARM, SEED), mean, index)]
                if values.ndim:
                    everywhere = (*index, slice(scenes))
                    parts.append((f"{name}_{SCENE}", (ARM, SEED, SCENE), values, everywhere))
                for variable, dims, data, where in parts:
                    path = f"{CONTROL}/{variable}"
                    if self._disk.array(path) is None:
                        with self._disk.edit():
                            counts = [self._disk.count(CONTROL, dim) for dim in dims]
                            chunk = (1, 1, *counts[2:])
                            self._disk.create(path, counts, chunk, "float64", np.nan, dims)
                    self._disk.array(path, *index)[where] = data
            self._disk.mark(CONTROL, (ARM, SEED), index)
            self._sign_of_life()

    # what is there

    def done(self, group: str, *key: Any) -> bool:
        """Whether a unit is written, so that a resumed run can skip it.

        ``done("images", pair)``, ``done("images", pair, "fused_baseline")``,
        ``done("features/<layer>", pair)``, ``done("heatmaps/<name>", pair)``,
        ``done("scores", pair)``, ``done("scores", pair, "baseline")``,
        ``done("control", arm, seed)``, and ``done("history", arm, seed)``: its last step is there.
        Undeclared names are simply not done.
        """
        head = group.split("/", 1)[0]
        if head not in GROUPS:
            raise StoreError(f"no group {group!r}.{nearest(head, GROUPS)}")
        dims = (ARM, SEED) if head in (HISTORY, CONTROL) else (PAIR,)
        if not len(dims) <= len(key) <= len(dims) + (head in (IMAGES, SCORES)):
            raise StoreError(f"done({group!r}, ...) takes {' and '.join(dims)}.")
        indices = []
        for dim, name in zip(dims, key, strict=False):
            index = self._disk.find("" if dim == PAIR else head, dim, name)
            if index is None:
                return False
            indices.append(index)
        with explained(self._place):
            if head == HISTORY:
                return self.reached(*key) == self._disk.count(HISTORY, STEP)
            if len(key) > len(dims):
                array = self._disk.array(f"{group}/{key[-1]}", *indices)
                if array is None or head != IMAGES:
                    return array is not None and bool(np.isfinite(array[indices[0]]).any())
                height, width = self._disk.true_size(indices[0])
                image = array[indices[0], :, :height, :width]
                return is_whole(image, array.chunks[1:])
            array = self._disk.array(f"{group}/{WRITTEN}", *indices)
            return array is not None and bool(array[tuple(indices)])

    def has_control(self, arm: str, seed: int) -> bool:
        """Whether the measures of this arm and seed are written."""
        return self.done(CONTROL, arm, seed)

    def reached(self, arm: str, seed: int) -> int:
        """How many recorded steps of this arm and seed there are, counted to the last one."""
        arm_index = self._disk.find(HISTORY, ARM, arm)
        seed_index = self._disk.find(HISTORY, SEED, seed)
        if arm_index is None or seed_index is None:
            return 0
        if self._open:
            self.flush()
        array = self._disk.array(f"{HISTORY}/{VALUE}", arm_index, seed_index)
        if array is None:
            return 0
        steps = np.flatnonzero(~np.isnan(array[arm_index, seed_index]).all(axis=-1))
        return int(steps[-1]) + 1 if len(steps) else 0

    def _explained(self) -> contextlib.AbstractContextManager:
        if not self._open:
            raise StoreError(
                f"the run {self.path} has ended; create_run(..., resume=True) takes it up again."
            )
        return explained(self._place)

    def _update_root(self, attributes: Mapping | None = None, *, final: bool = False) -> None:
        """Renew the root document: attributes, sign of life, and what there is.

        Listing what there is takes a request for every array where the place is remote, so it is
        done there when a writer ends; fusionkit's own readers do not need it.
        """
        with self._place.lock():
            root = self._place.read("zarr.json")
            if root is None:
                raise StoreError(f"{self.path} is gone: the folder was removed during the run.")
            root["attributes"].update(attributes or {})
            sessions = {entry["id"]: entry for entry in root["attributes"]["sessions"]}
            if (own := sessions.get(self._session)) and "ended" not in own:
                own["heartbeat"] = root["attributes"]["heartbeat"] = session.now()
            if self._progress is not None:
                root["attributes"]["progress"] = self._progress
            if self._disk.changed and (final or self._place.local is not None):
                root["consolidated_metadata"] = consolidated(self._place)
                self._disk.changed = False
            self._place.write("zarr.json", root)

    def _sign_of_life(self) -> None:
        """After every put: what was held back long enough goes to the disk, and a heartbeat."""
        if self._unsaved and time.monotonic() - self._flushed > _FLUSH_SECONDS:
            with self._explained():
                self._flush_history()
        if self._open and time.monotonic() - self._beat > _HEARTBEAT_SECONDS:
            self._beat = time.monotonic()
            with self._explained():
                self._update_root()

    def _end(self, status: str, message: str | None) -> None:
        if not self._open:
            return
        try:
            with self._explained(), self._place.lock():
                try:
                    self._flush_history()
                finally:
                    self._disk.changed = True
                    root = self._place.read("zarr.json")
                    if root is not None:
                        ended = session.leave(root["attributes"], self._session, status, message)
                        self._update_root(ended, final=True)
        finally:
            self._let_go()

    def _replaced(self) -> None:
        """The same process begins this run anew, as when a notebook cell is run twice."""
        with contextlib.suppress(OSError, ValueError):
            self._flush_history()
        self._let_go()

    def _let_go(self) -> None:
        self._open = False
        if _runs.get(self.path) is self:
            del _runs[self.path]


@atexit.register
def _end_what_is_open() -> None:
    """Record runs that the process leaves behind: a notebook has no ``with`` around its cells."""
    for run in list(_runs.values()):
        if run._process != os.getpid():
            continue
        last = getattr(sys, "last_value", None)
        reason = f"{type(last).__name__}: {last}" if last else "the process ended before the run"
        with contextlib.suppress(Exception):
            run.fail(reason)


def check_name(name: str, what: str) -> None:
    """Refuse names that a store cannot hold as one part of a path."""
    if not name or name in (".", "..", "zarr.json") or "/" in name or name.startswith("__"):
        raise StoreError(
            f"{what} name {name!r} cannot be used: no '/', no leading '__', not empty."
        )
    if name in (HEIGHT, WIDTH, WRITTEN, LARGEST, ARM, SEED, PAIR, METRIC, SCENE):
        raise StoreError(f"{what} name {name!r} is taken by the layout of the store.")


def check_finite(array: np.ndarray, what: str) -> None:
    finite = np.isfinite(array)
    if array.size == 0 or not finite.any():
        raise StoreError(
            f"{what} has no finite value (NaN or infinity everywhere): the computation went wrong "
            "before it was stored."
        )
    if not finite.all():
        share = 1 - finite.mean()
        logger.warning("%s: %.2g %% of the values are NaN or infinite", what, 100 * share)


def _mean(values: np.ndarray) -> float:
    """Mean of the defined values, NaN without any."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")
