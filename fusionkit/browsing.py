"""What a viewer asks of runs, by reference and from memory where it was read before. No torch.

A reference names a picture, a layer or heat maps: ``fused`` in the run under inspection,
``<label>/fused`` in another run or in what the network said to a typed prompt.
"""

import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from fusionkit import store

if TYPE_CHECKING:
    import xarray

CACHE_BYTES = 512 * 2**20
"""How much of what was read stays in memory: some layers of full size."""


class Shown(Protocol):
    """Something with pictures and maps of pairs."""

    def contents(self) -> Mapping[str, Any]: ...
    def image(self, name: str, pair: str) -> np.ndarray: ...
    def channel(self, name: str, pair: str, channel: int) -> np.ndarray: ...
    def features(self, name: str, pair: str) -> np.ndarray: ...
    def heatmaps(self, name: str, pair: str) -> tuple[np.ndarray, list[str]]: ...


class StoredRun:
    """A run on disk, read where it is looked at."""

    def __init__(self, tree: "xarray.DataTree") -> None:
        self.tree = tree
        self._contents = store.contents(tree)
        # What every look needs and one read brings, such as the true sizes of all pairs.
        for node in tree.subtree:
            for variable in node.to_dataset(inherit=False).variables.values():
                chunks = variable.encoding.get("chunks")
                if variable.ndim == 1 and chunks and chunks[0] >= variable.size:
                    variable.load()

    def contents(self) -> Mapping[str, Any]:
        return self._contents

    def image(self, name: str, pair: str) -> np.ndarray:
        return store.read_image(self.tree, name, pair)

    def channel(self, name: str, pair: str, channel: int) -> np.ndarray:
        return store.read_channel(self.tree, name, pair, channel)

    def features(self, name: str, pair: str) -> np.ndarray:
        return store.read_features(self.tree, name, pair)

    def heatmaps(self, name: str, pair: str) -> tuple[np.ndarray, list[str]]:
        return store.read_heatmaps(self.tree, name, pair)


@dataclass
class Answer:
    """What a network made of one pair under a typed prompt."""

    image: np.ndarray
    """``(3, y, x)`` in [0, 1]."""
    features: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Layer -> ``(channel, y, x)``."""
    heatmaps: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Name -> ``(y, x)`` in [0, 1]."""


class Typed:
    """Answers to one typed prompt, by pair; looks like a run whose only result is ``fused``."""

    def __init__(self, prompt: str) -> None:
        self.prompt = prompt
        self.answers: dict[str, Answer] = {}

    def contents(self) -> Mapping[str, Any]:
        answers = list(self.answers.values())
        return {
            "images": ["fused"],
            "features": {n: len(maps) for a in answers for n, maps in a.features.items()},
            "heatmaps": list(dict.fromkeys(n for a in answers for n in a.heatmaps)),
        }

    def image(self, name: str, pair: str) -> np.ndarray:
        return self._of(pair, lambda answer: answer.image)

    def channel(self, name: str, pair: str, channel: int) -> np.ndarray:
        return self.features(name, pair)[channel]

    def features(self, name: str, pair: str) -> np.ndarray:
        return self._of(pair, lambda answer: answer.features[name])

    def heatmaps(self, name: str, pair: str) -> tuple[np.ndarray, list[str]]:
        return self._of(pair, lambda answer: answer.heatmaps[name])[None], [self.prompt]

    def _of(self, pair: str, what: Callable[[Answer], np.ndarray]) -> np.ndarray:
        if pair not in self.answers:
            raise store.NotComputed(f"pair {pair!r} was not fused under “{self.prompt}” yet.")
        return what(self.answers[pair])


class Shelf:
    """Runs side by side by label, the one under inspection first and with the label ""."""

    def __init__(self, shown: Mapping[str, Shown]) -> None:
        self.shown: dict[str, Shown] = dict(shown)
        self._cache: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._bytes = 0

    def names(self, what: str) -> list[str]:
        """References of all ``images``, ``features`` or ``heatmaps``."""
        found = []
        for label, shown in self.shown.items():
            found += [f"{label}/{name}" if label else name for name in shown.contents()[what]]
        return found

    def find(self, reference: str) -> tuple[Shown, str]:
        label, _, name = reference.rpartition("/")
        if label not in self.shown:
            raise store.StoreError(f"no run is shown under the label {label!r}.")
        return self.shown[label], name

    def channels(self, reference: str) -> int:
        """How many channels a layer has."""
        shown, name = self.find(reference)
        return shown.contents()["features"].get(name, 1)

    def image(self, reference: str, pair: str) -> np.ndarray:
        """``(band, y, x)``."""
        return self._once("image", reference, pair)

    def features(self, reference: str, pair: str) -> np.ndarray:
        """``(channel, y, x)``, all of a layer."""
        return self._once("features", reference, pair)

    def heatmaps(self, reference: str, pair: str) -> tuple[np.ndarray, list[str]]:
        return self._once("heatmaps", reference, pair)

    def channel(self, reference: str, pair: str, channel: int) -> np.ndarray:
        """``(y, x)``; of the layer where that is in memory, else read alone."""
        if (whole := self._cache.get(("features", reference, pair))) is not None:
            return whole[0][channel]
        shown, name = self.find(reference)
        return shown.channel(name, pair, channel)

    def remember(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What ``make`` returns, made once while there is room for it."""
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key][0]
        value = make()
        parts = value if isinstance(value, tuple) else (value,)
        size = sum(getattr(part, "nbytes", 1000) for part in parts)
        self._cache[key] = (value, size)
        self._bytes += size
        while self._bytes > CACHE_BYTES and len(self._cache) > 1:
            self._bytes -= self._cache.popitem(last=False)[1][1]
        return value

    def forget(self) -> None:
        """Read everything anew from now on."""
        self._cache.clear()
        self._bytes = 0

    def _once(self, what: str, reference: str, pair: str) -> Any:
        shown, name = self.find(reference)
        return self.remember((what, reference, pair), lambda: getattr(shown, what)(name, pair))


def unusual(values: np.ndarray) -> np.ndarray:
    """How far each value lies from the median, in robust standard deviations; NaN stays NaN.

    The modified z-score of Iglewicz and Hoaglin, How to Detect and Handle Outliers (1993): beyond
    3.5 a value is called an outlier. Where more than half of the values are equal, the mean
    absolute deviation takes the place of the median one.
    """
    values = np.asarray(values, dtype=np.float64)
    finite = values[np.isfinite(values)]
    if len(finite) < 3:
        return np.where(np.isfinite(values), 0.0, np.nan)
    off = np.abs(finite - np.median(finite))
    scale = np.median(off) * 1.4826 or off.mean() * 1.2533
    deviations = (values - np.median(finite)) / (scale or 1.0)
    return np.where(np.isfinite(values), deviations, np.nan)


def curve(steps: Sequence[int], rows: np.ndarray, most: int = 400) -> dict[str, list[float]]:
    """Seeds ``(seed, step)`` of one term as mean, lowest and highest, thinned to ``most`` steps.

    Thinned by the mean of neighbouring steps; steps without any value are left out.
    """
    rows = np.atleast_2d(np.asarray(rows, dtype=np.float64))
    there = np.isfinite(rows).any(axis=0)
    rows, steps = rows[np.isfinite(rows).any(axis=1)][:, there], np.asarray(steps)[there]
    if not len(steps):
        return {"steps": [], "mean": [], "low": [], "high": []}
    groups = np.array_split(np.arange(len(steps)), min(most, len(steps)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a seed may lag behind the others
        found = np.stack([np.nanmean(rows[:, group], axis=1) for group in groups], axis=1)
    return {
        "steps": [int(steps[group[-1]]) for group in groups],
        "mean": np.nanmean(found, axis=0).tolist(),
        "low": np.nanmin(found, axis=0).tolist(),
        "high": np.nanmax(found, axis=0).tolist(),
    }
