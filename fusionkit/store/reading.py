"""Reading a run: the whole as a labelled tree, or one picture, map or score by name."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fusionkit.store.arrays import is_whole
from fusionkit.store.errors import Damaged, NotComputed, StoreError, nearest, some
from fusionkit.store.layout import (
    ARM,
    BAND,
    BANDS,
    CONTROL,
    FEATURES,
    GROUPS,
    HALF_FLOAT_MAX,
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
)
from fusionkit.store.location import Location
from fusionkit.store.session import existing, is_written_here, notice

if TYPE_CHECKING:
    import xarray

    Stored = str | os.PathLike | xarray.DataTree

logger = logging.getLogger("fusionkit.store")


def open_run(
    path: str | os.PathLike, *, storage_options: Mapping | None = None
) -> "xarray.DataTree":
    """A stored run as a tree of lazily read arrays, with names along its dimensions.

    Pair names, arms, metrics, terms, scenes and prompts are attached as coordinates, so
    ``tree["scores"]["score"].sel(pair="street", metric="EN")`` works. A run that is not complete
    opens, logs one line and carries it as the attribute ``notice``.

    Raises :class:`StoreError` for a missing path, for something that is not a run, for a damaged
    one and for one that a newer fusionkit wrote.
    """
    import xarray

    place = Location(path, storage_options)
    root = existing(place)
    tree = _open_tree(place)
    pairs = root["attributes"].get(f"{PAIR}s", [])
    labelled = {}
    for node in tree.subtree:
        dataset = node.to_dataset(inherit=False)
        dims = {d: dataset.attrs.get(f"{d}s") for d in (METRIC, ARM, SEED, STEP, TERM, SCENE)}
        if PAIR in dataset.sizes:
            dims[PAIR] = pairs
        # Room is made before the names that will use it are published.
        known = {d: len(dims[d]) for d in dims if dims[d] is not None and d in dataset.sizes}
        dataset = dataset.isel({d: slice(count) for d, count in known.items()})
        for dim in (SEED, STEP):
            dims.pop(dim)
        if not dataset.attrs.get("pair_prompts"):
            dims[PROMPT] = dataset.attrs.get(f"{PROMPT}s")
        if dataset.sizes.get(BAND) == len(BANDS):
            dims[BAND] = list(BANDS)
        dataset = dataset[sorted(dataset.data_vars)]
        dims = {d: names for d, names in dims.items() if len(names or ()) == dataset.sizes.get(d)}
        labelled[node.path] = dataset.assign_coords({d: np.array(n) for d, n in dims.items()})
    labelled["/"].attrs = dict(root["attributes"])
    labelled["/"].encoding["source"] = place.url  # as xarray says where a file was opened
    if pairs and all(d.sizes.get(PAIR, len(pairs)) == len(pairs) for d in labelled.values()):
        labelled["/"] = labelled["/"].assign_coords({PAIR: np.array(pairs)})
    if text := notice(root["attributes"]):
        labelled["/"].attrs["notice"] = text
        if not is_written_here(root["attributes"]):
            logger.warning("%s: %s", place, text)
    order = ["", *GROUPS]
    rank = {name: position for position, name in enumerate(order)}  # groups of others come last
    paths = sorted(labelled, key=lambda path: (rank.get(path.split("/")[1], len(rank)), path))
    return xarray.DataTree.from_dict({path: labelled[path] for path in paths}, name=place.name)


def _open_tree(place: Location) -> "xarray.DataTree":
    """The store as xarray sees it, also while some process makes room, or after one died at it.

    Then the arrays of a group have different lengths, which xarray refuses; they are cut to the
    shortest, beyond which nothing is written yet.
    """
    import xarray

    options = {"engine": "zarr", "consolidated": False, "chunks": None}
    where = place.zarr_store(read_only=True)
    try:
        return xarray.open_datatree(where, **options)
    except ValueError as error:
        if "conflicting sizes" not in str(error):
            raise
    groups = {}
    for group in _groups_of(place):
        names = [name for name in place.names(group) if _node_type(place, group, name) == "array"]
        parts = [
            xarray.open_dataset(
                where, group=group, drop_variables=[n for n in names if n != name], **options
            )
            for name in names
        ]
        sizes: dict[str, int] = {}
        for part in parts:
            for dim, size in part.sizes.items():
                sizes[dim] = min(size, sizes.get(dim, size))
        cut = [part.isel({d: slice(sizes[d]) for d in part.sizes}) for part in parts]
        attributes = (place.read(_document(group)) or {}).get("attributes", {})
        groups[f"/{group}"] = xarray.merge(cut, join="override", compat="override").assign_attrs(
            attributes
        )
    return xarray.DataTree.from_dict(groups)


def _groups_of(place: Location, group: str = "") -> list[str]:
    """Paths of a group and of all groups in it."""
    inner = [n for n in place.names(group) if _node_type(place, group, n) == "group"]
    paths = [f"{group}/{name}" if group else name for name in inner]
    return [group, *(path for parent in paths for path in _groups_of(place, parent))]


def _document(group: str) -> str:
    return f"{group}/zarr.json" if group else "zarr.json"


def _node_type(place: Location, group: str, name: str) -> str | None:
    inside = f"{group}/{name}" if group else name
    document = None if name == "zarr.json" else place.read(_document(inside))
    return None if document is None else document.get("node_type")


class _Source:
    """Arrays and attributes by path, from an opened tree or straight from the store."""

    def __init__(self, run: "Stored") -> None:
        self._tree = self._store = None
        if isinstance(run, str | os.PathLike):
            self._place = Location(run)
            self.root = existing(self._place)["attributes"]
            self._store = self._place.zarr_store(read_only=True)
            self._folder = self._place.local
        else:
            self._tree = run
            self.root = run.attrs
            place = run.encoding.get("source", "")
            self._folder = Path(place) if place and "://" not in place else None

    def attributes(self, group: str) -> Mapping:
        if self._tree is not None:
            return self._tree[group].attrs if self._has(group) else {}
        return (self._place.read(_document(group)) or {}).get("attributes", {})

    def array(self, path: str) -> Any:
        """Something that numpy indices read from, or None."""
        if self._tree is not None:
            group, name = path.rsplit("/", 1)
            return self._tree[group].variables.get(name) if self._has(group) else None
        import zarr

        if self._place.read(f"{path}/zarr.json") is None:
            return None
        return zarr.open_array(self._store, path=path, mode="r", zarr_format=3)

    def is_written(self, group: str, index: int, what: str) -> bool:
        """Whether a pair of a group is written; :meth:`written` says how that is known."""
        folder = None if self._folder is None else self._folder / group / WRITTEN / "c"
        if folder is not None and folder.is_dir():
            return (folder / str(index)).exists()
        return bool(self.read(f"{group}/{WRITTEN}", index, what))

    def written(self, group: str) -> np.ndarray:
        """Which pairs of a group are written.

        Each has a file of its own while it is; a folder is listed rather than every file read.
        """
        array = self.array(f"{group}/{WRITTEN}")
        if array is None:
            return np.zeros(0, dtype=bool)
        folder = None if self._folder is None else self._folder / group / WRITTEN / "c"
        if folder is None or not folder.is_dir():
            return np.asarray(array[:])
        flags = np.zeros(array.shape[0], dtype=bool)
        found = [int(name) for name in os.listdir(folder) if name.isdigit()]
        flags[[index for index in found if index < len(flags)]] = True
        return flags

    def chunks(self, path: str) -> Sequence[int] | None:
        """What of one pair is written at once, where that is known."""
        array = self.array(path)
        found = array.encoding.get("chunks") if self._tree is not None else array.chunks
        return found[1:] if found else None

    def _has(self, group: str) -> bool:
        node = self._tree
        for part in group.split("/"):
            if part not in node.children:
                return False
            node = node.children[part]
        return True

    def names(self, group: str) -> list[str]:
        """Names in a group."""
        if self._tree is None:
            return [name for name in self._place.names(group) if name != "zarr.json"]
        if not self._has(group):
            return []
        node = self._tree[group]
        return sorted([*node.children, *map(str, node.to_dataset(inherit=False).variables)])

    def pair(self, pair: str | int) -> int:
        names = self.root.get(f"{PAIR}s", [])
        if isinstance(pair, str) and pair in names:
            return names.index(pair)
        if not isinstance(pair, str) and 0 <= pair < len(names):
            return int(pair)
        raise StoreError(f"no pair {pair!r} in this run.{nearest(pair, names)} ({some(names)})")

    def read(self, path: str, index: Any, what: str) -> np.ndarray:
        array = self.array(path)
        if array is None:
            group = path.rsplit("/", 1)[0]
            parent, _, name = group.rpartition("/") if group.count("/") else (group, "", path)
            names = [n for n in self.names(parent or group)]
            wanted = name if parent != group else path.rsplit("/", 1)[1]
            raise StoreError(f"this run holds no {what}.{nearest(wanted, names)}")
        try:
            return np.asarray(array[index])
        except IndexError:
            raise NotComputed(f"{what} is not computed in this run.") from None
        except ValueError as error:
            if "checksum" not in str(error):
                raise
            raise Damaged(
                f"{what} is damaged on disk ({error}). Write this part anew: run with "
                "resume=False, or into another store."
            ) from error

    def extent(self, group: str, index: int) -> tuple[slice, slice]:
        """Where a pair's picture lies within the room made for the largest."""
        sides = [int(np.asarray(self.array(f"{group}/{n}")[index])) for n in (HEIGHT, WIDTH)]
        return slice(sides[0]), slice(sides[1])


def read_channel(run: "Stored", layer: str, pair: str | int, channel: int) -> np.ndarray:
    """One channel of one layer for one pair, ``(y, x)`` float32, without reading the others.

    ``run`` is a path or a tree from :func:`open_run`. Raises :class:`NotComputed` for a hole.
    """
    return _read_maps(_Source(run), f"{FEATURES}/{layer}", pair, channel, f"layer {layer!r}")


def read_features(run: "Stored", layer: str, pair: str | int) -> np.ndarray:
    """All maps of one layer for one pair, ``(channel, y, x)`` float32."""
    return _read_maps(_Source(run), f"{FEATURES}/{layer}", pair, slice(None), f"layer {layer!r}")


def read_heatmaps(run: "Stored", name: str, pair: str | int) -> tuple[np.ndarray, list[str]]:
    """Heat maps of one pair, ``(prompt, y, x)`` float32, and their prompts."""
    source = _Source(run)
    group = f"{HEATMAPS}/{name}"
    maps = _read_maps(source, group, pair, slice(None), f"heat maps {name!r}")
    attributes = source.attributes(group)
    label = source.root[f"{PAIR}s"][source.pair(pair)]
    prompts = attributes.get("pair_prompts", {}).get(label, attributes.get(f"{PROMPT}s", []))
    return maps[: len(prompts)], list(prompts)


def _read_maps(
    source: _Source, group: str, pair: str | int, bands: int | slice, what: str
) -> np.ndarray:
    index = source.pair(pair)
    what_pair = f"{what} for pair {pair!r}"
    if not source.is_written(group, index, what):
        raise NotComputed(f"{what_pair} is not computed in this run.")
    path = f"{group}/{MAPS}"
    if f"{WIDE_MAPS}" in source.names(group):
        largest = float(source.read(f"{group}/{LARGEST}", index, what_pair))
        path = f"{group}/{WIDE_MAPS}" if largest > HALF_FLOAT_MAX else path
    count = source.array(path).shape[1]
    if isinstance(bands, int | np.integer) and not 0 <= bands < count:
        raise StoreError(f"{what} has channels 0 to {count - 1}; asked for {bands}.")
    maps = source.read(path, (index, bands, *source.extent(group, index)), what_pair)
    return maps.astype(np.float32)


def read_image(run: "Stored", variable: str, pair: str | int) -> np.ndarray:
    """One picture at its true size, ``(band, y, x)`` float32 in [0, 1]."""
    source = _Source(run)
    index = source.pair(pair)
    what = f"image {variable!r}"
    extent = source.extent(IMAGES, index)
    image = source.read(f"{IMAGES}/{variable}", (index, slice(None), *extent), what)
    if not image.size or not is_whole(image, source.chunks(f"{IMAGES}/{variable}")):
        raise NotComputed(f"{what} of pair {pair!r} is not computed in this run.")
    return image


def read_scores(run: "Stored", pair: str | int) -> dict[str, dict[str, float]]:
    """Scores of one pair: score variable -> metric -> value, NaN where there is none."""
    source = _Source(run)
    index = source.pair(pair)
    metrics = source.attributes(SCORES).get(f"{METRIC}s", [])
    found = {}
    for name in source.names(SCORES):
        if name not in (WRITTEN, METRIC, PAIR) and source.array(f"{SCORES}/{name}").ndim == 2:
            row = source.read(f"{SCORES}/{name}", index, f"scores {name!r}")
            found[name] = dict(zip(metrics, row.tolist(), strict=False))
    return found


def read_history(run: "Stored", term: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """One term of the loss: step numbers ``(step,)`` and, per arm, values ``(seed, step)``."""
    source = _Source(run)
    attributes = source.attributes(HISTORY)
    terms = attributes.get(f"{TERM}s", [])
    if term not in terms:
        raise StoreError(f"no term {term!r} in the history.{nearest(term, terms)} ({some(terms)})")
    index = (slice(None), slice(None), slice(None), terms.index(term))
    values = source.read(f"{HISTORY}/{VALUE}", index, "history")
    arms = attributes[f"{ARM}s"]
    return np.array(attributes[f"{STEP}s"]), dict(zip(arms, values, strict=True))


def kept_pairs(run: "Stored") -> list[str]:
    """Names of the pairs of which pictures, feature maps or heat maps were kept, in their order.

    A run may score hundreds of pairs and keep the pictures of six.
    """
    source = _Source(run)
    names = source.root.get(f"{PAIR}s", [])
    kept = np.zeros(len(names), dtype=bool)
    groups = [IMAGES]
    for parent in (FEATURES, HEATMAPS):
        groups += [f"{parent}/{name}" for name in source.names(parent)]
    for group in groups:
        flags = source.written(group)
        kept[: len(flags)] |= flags[: len(kept)]
    return [name for name, flag in zip(names, kept, strict=True) if flag]


def contents(run: "Stored") -> dict[str, Any]:
    """What can be asked of a run: ``pairs``, ``images``, ``features`` (layer -> channels),
    ``heatmaps``, ``metrics``, ``arms``, ``seeds``, ``terms``, ``measures``."""
    source = _Source(run)
    taken = {HEIGHT, WIDTH, WRITTEN, LARGEST, PAIR, BAND, ARM, SEED, SCENE}
    layers = {}
    for layer in source.names(FEATURES):
        if (array := source.array(f"{FEATURES}/{layer}/{MAPS}")) is not None:
            layers[layer] = array.shape[1]
    history, control = source.attributes(HISTORY), source.attributes(CONTROL)
    measures = [
        name
        for name in source.names(CONTROL)
        if name not in taken and source.array(f"{CONTROL}/{name}").ndim == 2
    ]
    return {
        "pairs": list(source.root.get(f"{PAIR}s", [])),
        "images": [name for name in source.names(IMAGES) if name not in taken],
        "features": layers,
        "heatmaps": source.names(HEATMAPS),
        "metrics": source.attributes(SCORES).get(f"{METRIC}s", []),
        "arms": history.get(f"{ARM}s") or control.get(f"{ARM}s", []),
        "seeds": history.get(f"{SEED}s") or control.get(f"{SEED}s", []),
        "terms": history.get(f"{TERM}s", []),
        "measures": measures,
    }
