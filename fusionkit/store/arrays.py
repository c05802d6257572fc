"""Labelled arrays that several processes fill: made, grown, addressed by name, written whole."""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fusionkit.store.errors import StoreError, explained, nearest, some
from fusionkit.store.layout import (
    FEATURES,
    HEATMAPS,
    HEIGHT,
    IMAGES,
    PAIR,
    SCORES,
    SEED,
    STEP,
    WIDTH,
    WRITTEN,
)
from fusionkit.store.location import Location


class Arrays:
    """The arrays, groups and labels of a run, as one process sees them.

    ``publish`` is called, under the lock, after the structure changed: it writes the root document.
    """

    def __init__(self, place: Location, publish: Callable[[], None]) -> None:
        self.place = place
        self.changed = False
        self._publish = publish
        self._store = place.zarr_store()
        self._arrays: dict[str, Any] = {}
        self._labels: dict[tuple[str, str], list] = {}
        self._sizes: np.ndarray | None = None

    @contextlib.contextmanager
    def edit(self) -> Iterator[None]:
        """Alone among the writers, with fresh knowledge of what the others declared."""
        with explained(self.place), self.place.lock():
            self.forget()
            yield
            if self.changed:
                self._publish()

    def forget(self) -> None:
        self._arrays.clear()
        self._labels.clear()
        self._sizes = None

    def group(self, group: str) -> dict:
        """The document of a group, made with its parents where it is missing."""
        parts = group.split("/") if group else []
        for depth in range(len(parts) + 1):
            key = "/".join([*parts[:depth], "zarr.json"])
            document = self.place.read(key)
            if document is None:
                document = {"zarr_format": 3, "node_type": "group", "attributes": {}}
                self.place.write(key, document)
                self.changed = True
        return document

    def labels_of(self, group: str, dim: str) -> list:
        if (group, dim) not in self._labels:
            document = self.place.read(f"{group}/zarr.json" if group else "zarr.json") or {}
            self._labels[group, dim] = document.get("attributes", {}).get(f"{dim}s", [])
        return self._labels[group, dim]

    def count(self, group: str, dim: str, more_than: int = -1) -> int:
        """How many labels a dimension has; read anew when there should be more than known."""
        if len(self.labels_of(group, dim)) <= more_than:
            self._labels.pop((group, dim))
        return len(self.labels_of(group, dim))

    def find(self, group: str, dim: str, name: Any) -> int | None:
        """Position of a label, asking the disk once more when another process may have added it."""
        name = int(name) if dim in (SEED, STEP) else str(name)
        if name not in self.labels_of(group, dim):
            self._labels.pop((group, dim))
        labels = self.labels_of(group, dim)
        return labels.index(name) if name in labels else None

    def index(self, group: str, dim: str, name: Any) -> int:
        index = self.find(group, dim, name)
        if index is None:
            labels = self.labels_of(group, dim)
            declare = {"": "declare_pairs", SCORES: "declare_metrics"}.get(
                group, f"declare_{group}"
            )
            known = f"known: {some(labels)}" if labels else f"none declared: call {declare} first"
            raise StoreError(f"no {dim} {name!r} in {self.place}.{nearest(name, labels)} ({known})")
        return index

    def extend(self, group: str, dim: str, names: list) -> list:
        """Add labels along a dimension and make room in every array that has it."""
        known = self.make_room(group, dim, names)
        self.label(group, dim, known)
        return known

    def make_room(self, group: str, dim: str, names: list) -> list:
        """The labels that a dimension shall have, with room for them in every array that has it.

        The labels themselves follow (:meth:`label`), when everything is in place: a reader, and
        who comes after a crash in between, never meets a name without room for its data.
        """
        if len(set(names)) < len(names):
            twice = sorted({str(n) for n in names if names.count(n) > 1})
            raise StoreError(f"{dim} {some(twice)} is named twice.")
        document = self.group(group)
        known = document["attributes"].get(f"{dim}s", [])
        present = set(known)
        known = known + [name for name in names if name not in present]
        for path in arrays_of(self.place, "" if dim == PAIR else group):
            array = self.array(path)
            names_of = array.metadata.dimension_names or ()
            if dim in names_of and path != f"{group}/{dim}":
                shape = list(array.shape)
                shape[names_of.index(dim)] = len(known)
                self.grow(path, shape)
        if dim in (SEED, STEP):
            path = f"{group}/{dim}"
            coordinate = self.create(path, (len(known),), (len(known),), "int64", -1, (dim,))
            self.grow(path, (len(known),))
            if coordinate[:].tolist() != known:
                coordinate[:] = known
        return known

    def label(self, group: str, dim: str, known: list) -> None:
        """Publish the labels of a dimension."""
        document = self.group(group)
        if document["attributes"].get(f"{dim}s", []) != known:
            document["attributes"][f"{dim}s"] = known
            self.place.write(f"{group}/zarr.json" if group else "zarr.json", document)
            self.changed = True
        self._labels[group, dim] = known

    def array(self, path: str, *index: int) -> Any:
        """An array, or None where there is none.

        ``index`` is what the caller is about to address: a handle from before another process made
        room is opened anew.
        """
        found = self._arrays.get(path)
        if found is not None and all(i < n for i, n in zip(index, found.shape, strict=False)):
            return found
        import zarr

        if self.place.read(f"{path}/zarr.json") is None:
            return None
        found = zarr.open_array(self._store, path=path, mode="r+", zarr_format=3)
        self._arrays[path] = found
        return found

    def create(
        self,
        path: str,
        shape: Sequence[int],
        chunk: Sequence[int],
        dtype: Any,
        fill: Any,
        dims: Sequence[str],
        *,
        shard: Sequence[int] | None = None,
        attributes: Mapping | None = None,
    ) -> Any:
        """A checked, compressed array at full size; the present one where there is one."""
        if (found := self.array(path)) is not None:
            return found
        import zarr
        from zarr.codecs import BloscCodec, Crc32cCodec

        dtype = np.dtype(dtype)
        compress = [Crc32cCodec()]
        if int(np.prod(chunk)) > 64:
            blosc = BloscCodec(cname="zstd", clevel=3, shuffle="shuffle", typesize=dtype.itemsize)
            compress.insert(0, blosc)
        self.group(path.rsplit("/", 1)[0])
        array = zarr.create_array(
            self._store,
            name=path,
            shape=tuple(shape),
            chunks=tuple(max(1, extent) for extent in chunk),
            shards=tuple(shard) if shard else None,
            dtype=dtype,
            fill_value=fill,
            compressors=compress,
            filters=None,
            dimension_names=list(dims),
            attributes=dict(attributes or {}),
            zarr_format=3,
        )
        self._arrays[path] = array
        self.changed = True
        return array

    def grow(self, path: str, shape: Sequence[int]) -> None:
        array = self.array(path)
        fit = tuple(max(new, old) for new, old in zip(shape, array.shape, strict=True))
        if fit != array.shape:
            array.resize(fit)
            self.changed = True

    def put(self, path: str, index: int, data: np.ndarray) -> None:
        """Write one pair whole: padded with NaN to the extent of the array, so no chunk is read.

        A chunk appears whole or not at all. Where a pair has several, in an array that has grown,
        what was there goes first: a crash leaves a hole, never half of one beside half of another.
        """
        array = self.array(path, index)
        unit = (array.shards or array.chunks)[1:]
        if any(extent > one for extent, one in zip(array.shape[1:], unit, strict=True)):
            array[index] = np.nan
        if array.shape[1:] != data.shape:
            padded = np.full(array.shape[1:], np.nan, dtype=array.dtype)
            padded[tuple(slice(extent) for extent in data.shape)] = data
            data = padded
        array[index] = data

    def unmark(self, group: str, *index: int) -> None:
        """Take back that something is written, before it is written anew."""
        array = self.array(f"{group}/{WRITTEN}", *index)
        if array is not None and array[index]:
            array[index] = False

    def mark(self, group: str, dims: tuple[str, ...], index: tuple[int, ...]) -> None:
        path = f"{group}/{WRITTEN}"
        owner = "" if dims == (PAIR,) else group
        array = self.array(path, *index)
        if array is None:
            with self.edit():
                counts = [self.count(owner, dim) for dim in dims]
                array = self.create(path, counts, (1,) * len(dims), "bool", False, dims)
        array[index] = True

    def true_size(self, index: int) -> tuple[int, int]:
        """Declared height and width of a pair."""
        if self._sizes is None or index >= len(self._sizes):
            columns = [self.array(f"{IMAGES}/{n}", index)[:] for n in (HEIGHT, WIDTH)]
            self._sizes = np.stack(columns, axis=1)
        height, width = self._sizes[index]
        return int(height), int(width)

    def largest_size(self) -> tuple[int, int]:
        """Height and width that hold every declared pair."""
        self.true_size(self.count("", PAIR) - 1)
        height, width = self._sizes.max(axis=0)
        return int(height), int(width)


def is_whole(values: np.ndarray, chunk: Sequence[int] | None) -> bool:
    """Whether no chunk of what was read is missing; ``chunk`` is its extent along the last axes."""
    if chunk is None:
        return bool(np.isfinite(values).any())
    starts = [range(0, n, c) for n, c in zip(values.shape, chunk, strict=True)]
    return all(
        np.isfinite(values[tuple(slice(a, a + c) for a, c in zip(at, chunk, strict=True))]).any()
        for at in itertools.product(*starts)
    )


def consolidated(place: Location) -> dict:
    """The documents of all groups and arrays, for readers that look for them at the root.

    Inline consolidated metadata is what lets a plain ``xarray.open_datatree(path, engine="zarr")``
    work without a warning; fusionkit itself reads the documents in their places.
    """
    found = {}

    def visit(group: str) -> None:
        for name in place.names(group):
            path = f"{group}/{name}" if group else name
            document = place.read(f"{path}/zarr.json") if name != "zarr.json" else None
            if document is not None:
                found[path] = document
                if document.get("node_type") == "group":
                    visit(path)

    visit("")
    return {"kind": "inline", "must_understand": False, "metadata": found}


def arrays_of(place: Location, group: str) -> list[str]:
    """Paths of the arrays directly in a group; for "", of the arrays that have pairs."""
    if group:
        groups = [group]
    else:
        groups = [IMAGES, SCORES]
        for parent in (FEATURES, HEATMAPS):
            groups += [f"{parent}/{name}" for name in place.names(parent) if name != "zarr.json"]
    paths = [f"{g}/{name}" for g in groups for name in place.names(g) if name != "zarr.json"]
    return [
        path
        for path in paths
        if (place.read(f"{path}/zarr.json") or {}).get("node_type") == "array"
    ]
