"""Several stored runs side by side: which scores better on the same pairs, and by more than chance?

The tables, the intervals and the tests are those of :mod:`fusionkit.tables`, whoever made the
scores; here stored runs are found, told apart, checked to be comparable and brought together.
"""

import glob
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fusionkit import store, tables, views
from fusionkit.errors import BadRequest, did_you_mean
from fusionkit.evaluation import STANDARD, find_preset
from fusionkit.scoring import MISSING, RULES, SCORED, Scores
from fusionkit.statistics import holm, interval_nested, paired_difference

if TYPE_CHECKING:
    import xarray

    Stored = str | os.PathLike | xarray.DataTree

SHOWN = 4
DATA = ("dataset", "image_size")
"""Parameters that decide whether pairs of one name are the same pictures."""
INCIDENTAL = ("store", "resume", "device", "devices", "precision", "seeds")
"""Parameters in which the runs of one method may differ; over seeds its scores are averaged."""


def compare(
    runs: "Stored | Sequence[Stored] | Mapping[str, Stored | Sequence[Stored]]",
    *,
    metrics: Sequence[str] | None = None,
    variables: Sequence[str] = ("score",),
) -> "Comparison":
    """Bring stored runs together.

    Args:
        runs: stores, folders of stores at any depth (those of a sweep), patterns
            (``"runs/film-*.zarr"``), addresses or opened trees. Runs that differ in nothing but
            their seeds are one method; a method is called by the parameters in which it differs
            from the others. A mapping names the methods itself.
        metrics: columns, all that every run has if None.
        variables: which scores of a run: ``score`` is the arm under study, ``baseline`` what it
            was compared with.

    Raises:
        BadRequest: nothing there, no scores, runs on different data, no pair that all have, or a
            metric that means something else in another run.
        StoreError: a store that cannot be opened.

    Example:
        >>> found = compare(["runs/film.zarr", "runs/gate.zarr"])  # doctest: +SKIP
        >>> found.table()[["method", "metric", "mean", "low", "high"]]  # doctest: +SKIP
    """
    methods = _methods(runs)
    _check_data(methods)
    left_out, tables_of, about = {}, {}, {}
    for method, trees in methods.items():
        for variable in variables:
            name = method if variable == "score" else f"{method}, {variable}"
            try:
                tables_of[name] = _scores_of(trees, variable, about)
            except store.NotComputed as hole:
                left_out[name] = str(hole)
    if not tables_of:
        reasons = "; ".join(f"{name}: {why}" for name, why in left_out.items())
        raise BadRequest(f"none of these runs has scores to compare ({reasons}).")
    columns, unavailable = _columns(tables_of, metrics)
    return Comparison(
        scores=_brought_together(tables_of, columns, unavailable, about),
        runs=methods,
        left_out=left_out,
    )


@dataclass(frozen=True, eq=False)
class Comparison:
    """What :func:`compare` found. Jupyter shows it as its table with the tests."""

    scores: Scores
    """Every score of every pair and method, as :mod:`fusionkit.tables` wants them."""
    runs: Mapping[str, "Sequence[xarray.DataTree]"]
    """The opened runs of each method, one for each time it was run."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Methods without scores, with the reason."""

    @property
    def methods(self) -> list[str]:
        """Names of all methods, those without scores included."""
        return list(self.runs)

    def table(self) -> pd.DataFrame:
        """A row per method and metric: :func:`fusionkit.tables.summary`."""
        return tables.summary(self.scores)

    def tests(self) -> pd.DataFrame:
        """A row per metric and two methods, tested on the same pairs:
        :func:`fusionkit.tables.comparisons`."""
        return tables.comparisons(self.scores)

    def markdown(self) -> str:
        """Table, tests, and what belongs below them."""
        lines = [tables.markdown(self.scores)]
        lines += [f"- {name}: not compared, {why}\n" for name, why in self.left_out.items()]
        for name, trees in self.runs.items():
            notices = dict.fromkeys(t.attrs["notice"] for t in trees if t.attrs.get("notice"))
            lines += [f"- {name}: {notice}\n" for notice in notices]
            remarks = dict.fromkeys(r for t in trees for r in t.attrs.get("remarks") or ())
            lines += [f"- {name}: {remark}\n" for remark in remarks]
            if len(trees) > 1:
                lines.append(f"- {name}: mean of {len(trees)} runs, which differ in their seeds\n")
        return "".join(lines)

    def _repr_markdown_(self) -> str:
        return self.markdown()

    def write(self, table: str | os.PathLike) -> list[Path]:
        """CSV, Markdown and LaTeX files: :func:`fusionkit.tables.write`."""
        return tables.write(self.scores, table)

    # pictures

    def plot(self) -> views.Picture:
        """The scores of all pairs, a panel per metric."""
        return views.score_distributions(self.scores)

    def profile(self) -> views.Picture:
        """Methods as lines over metrics."""
        return views.score_profile(self.table())

    def kept_pairs(self) -> list[str]:
        """Pairs of which every method has kept pictures."""
        kept = [store.kept_pairs(trees[0]) for trees in self.runs.values()]
        return [name for name in kept[0] if all(name in names for names in kept)]

    def pictures(self, pairs: Sequence[str] | None = None, variable: str = "fused") -> Any:
        """Sources and what every method made of some pairs, of the first four kept if None."""
        chosen = list(pairs) if pairs is not None else self.kept_pairs()[:SHOWN]
        if not chosen:
            raise BadRequest("there is no pair of which all these runs kept pictures.")
        first = next(iter(self.runs.values()))[0]
        rows = []
        for pair in chosen:
            row = [_picture(first, name, pair) for name in ("ir", "vi")]
            rows.append([*row, *(_picture(t[0], variable, pair) for t in self.runs.values())])
        return views.grid(rows, columns=["infrared", "visible", *self.runs], labels=chosen)

    def curves(self, term: str = "total") -> views.Picture:
        """One term of the loss over the steps, a line per method and a band over its seeds.

        Of each run the arm under study, which is its last.
        """
        found = {}
        for name, trees in self.runs.items():
            for tree in trees:
                if term in store.contents(tree)["terms"]:
                    steps, arms = store.read_history(tree, term)
                    found.setdefault(name, []).append((steps, list(arms.values())[-1]))
        if not found:
            terms = sorted({t for ts in self.runs.values() for t in store.contents(ts[0])["terms"]})
            raise BadRequest(
                f"none of these runs recorded {term!r}.{did_you_mean(term, terms)}"
                + (f" There are: {', '.join(terms)}." if terms else "")
            )
        every = np.unique(np.concatenate([steps for runs in found.values() for steps, _ in runs]))
        lines = {}
        for name, runs in found.items():
            rows = []
            for steps, values in runs:
                row = np.full((len(values), len(every)), np.nan)
                row[:, np.searchsorted(every, steps)] = values
                rows.append(row)
            lines[name] = np.concatenate(rows)
        return views.curves(every, lines, name=term)

    # text control

    def control(self) -> pd.DataFrame:
        """Measures of text control: a row per method, arm and measure.

        ``mean`` with its 95 % interval ``low``, ``high`` over seeds and questions
        (:func:`fusionkit.statistics.interval_nested`), ``seeds`` and ``n`` of values.
        """
        rows = []
        for (name, arm, measure), values in self._asked.items():
            found = interval_nested(values.to_numpy(), level=tables.LEVEL)
            rows.append(
                {
                    "method": name,
                    "arm": arm,
                    "measure": measure,
                    "mean": found.mean,
                    "low": found.low,
                    "high": found.high,
                    "seeds": len(values),
                    "n": found.n,
                }
            )
        columns = ["method", "arm", "measure", "mean", "low", "high", "seeds", "n"]
        return pd.DataFrame(rows, columns=columns)

    def control_tests(self) -> pd.DataFrame:
        """Do two methods differ in a measure of text control, on the questions both were asked?

        Of each run the arm under study, which is its last. A row per measure and two methods, with
        the columns of :func:`fusionkit.tables.comparisons`; values are averaged over seeds before.
        """
        studied = {}
        for (name, arm, measure), values in self._asked.items():
            if arm == self._arms(name)[-1]:
                studied.setdefault(measure, {})[name] = values.mean()
        rows = []
        for measure, by in studied.items():
            pairs = list(combinations(by, 2))
            tests = []
            for a, b in pairs:
                both = pd.concat([by[a], by[b]], axis=1, join="inner").to_numpy()
                tests.append(paired_difference(both[:, 0], both[:, 1], level=tables.LEVEL))
            corrected = holm([test.p for test in tests])
            for (a, b), test, p in zip(pairs, tests, corrected, strict=True):
                rows.append(
                    {
                        "measure": measure,
                        "first": a,
                        "second": b,
                        "difference": test.mean,
                        "low": test.interval.low,
                        "high": test.interval.high,
                        "n": test.interval.n,
                        "p": test.p,
                        "p_holm": p,
                    }
                )
        columns = ["measure", "first", "second", "difference", "low", "high", "n", "p", "p_holm"]
        return pd.DataFrame(rows, columns=columns)

    @cached_property
    def _asked(self) -> dict[tuple[str, str, str], pd.DataFrame]:
        """Method, arm, measure -> values, a row per seed of a run, a column per question."""
        found: dict[tuple[str, str, str], list[pd.DataFrame]] = {}
        for name, trees in self.runs.items():
            for number, tree in enumerate(trees):
                if "control" not in tree.children:
                    continue
                group = tree["control"].to_dataset()
                scenes = [str(n) for n in group.data_vars if str(n).endswith("_scene")]
                for measure in (name.removesuffix("_scene") for name in scenes):
                    for arm in self._arms(name):
                        values = group[f"{measure}_scene"].sel(arm=arm)
                        frame = pd.DataFrame(
                            values.values,
                            index=[(number, int(s)) for s in group["seed"].values],
                            columns=_questions(group),
                        )
                        frame = frame.dropna(how="all").dropna(how="all", axis=1)
                        if not frame.empty:
                            found.setdefault((name, arm, measure), []).append(frame)
        return {key: pd.concat(frames) for key, frames in found.items()}

    def _arms(self, method: str) -> list[str]:
        group = self.runs[method][0]["control"].to_dataset()
        return [str(arm) for arm in group["arm"].values]


# --- finding runs and telling them apart ---------------------------------------------------------


def _methods(runs: Any) -> "dict[str, list[xarray.DataTree]]":
    if isinstance(runs, Mapping) and not hasattr(runs, "attrs"):  # an opened tree is one, too
        methods = {str(name): list(_opened(given)) for name, given in runs.items()}
    else:
        methods = _named(list(_opened(runs)))
    if not methods or not all(methods.values()):
        raise BadRequest("there is nothing to compare: no stored run was given.")
    return methods


def _opened(given: Any) -> "Iterator[xarray.DataTree]":
    several = isinstance(given, Sequence) and not isinstance(given, str)
    seen = set()
    for entry in given if several else [given]:
        if not isinstance(entry, str | os.PathLike):
            yield entry
            continue
        for place in _places(entry):
            if place not in seen:  # a pattern and a folder may find the same run
                seen.add(place)
                yield store.open_run(place)


def _places(given: str | os.PathLike) -> list[str]:
    """The stores that a path, a pattern or a folder stands for."""
    text = os.fspath(given)
    if "://" in text:
        return [text]
    path = Path(text).expanduser()
    if path.is_dir() and not (path / "zarr.json").exists():
        found = []
        for folder, inside, files in os.walk(path):
            inside.sort()
            if "zarr.json" in files:
                inside.clear()
                found.append(folder)
        if not found:
            raise BadRequest(f"{path} is no stored run and holds none.", asked=text)
        return found
    if not path.exists() and glob.has_magic(text):
        if not (found := sorted(glob.glob(str(path)))):
            raise BadRequest(f"nothing is called {text}.", asked=text)
        return found
    return [str(path)]


def _named(trees: "list[xarray.DataTree]") -> "dict[str, list[xarray.DataTree]]":
    """Runs by the parameters in which they differ; those that differ in seeds alone together."""
    settings = [
        {k: v for k, v in t.attrs.get("parameters", {}).items() if k not in INCIDENTAL}
        for t in trees
    ]
    keys = list(dict.fromkeys(key for setting in settings for key in setting))
    values = {key: [json.dumps(s.get(key), sort_keys=True) for s in settings] for key in keys}
    differ = [key for key in keys if len(set(values[key])) > 1]
    groups: dict[str, list[Any]] = {}
    for i, tree in enumerate(trees):
        same = json.dumps([settings[i], tree.attrs.get("recipe")], sort_keys=True, default=str)
        groups.setdefault(same, []).append((i, tree))
    names = []
    for members in groups.values():
        index, tree = members[0]
        said = [(key, settings[index].get(key)) for key in differ]
        texts = [
            _text(value) if len(differ) == 1 else f"{key} {_text(value)}" for key, value in said
        ]
        names.append(", ".join(texts) or (tree.name or "run").removesuffix(".zarr"))
    for i, members in enumerate(groups.values()):
        if names.count(names[i]) > 1:  # other recipes under the same parameters
            names[i] = f"{names[i]} ({(members[0][1].name or str(i)).removesuffix('.zarr')})"
    return {
        name if names.count(name) == 1 else f"{name} #{i}": [tree for _, tree in members]
        for i, (name, members) in enumerate(zip(names, groups.values(), strict=True))
    }


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "+".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


# --- making them comparable ----------------------------------------------------------------------


def _check_data(methods: "Mapping[str, Sequence[xarray.DataTree]]") -> None:
    """Pairs of one name must be the same pictures."""
    for key in DATA:
        values: dict[str, str] = {}
        for name, trees in methods.items():
            for tree in trees:
                if key in tree.attrs.get("parameters", {}):
                    values.setdefault(json.dumps(tree.attrs["parameters"][key]), name)
        if len(values) > 1:
            listed = ", ".join(f"{value} in {name}" for value, name in values.items())
            raise BadRequest(
                f"these runs are not on the same pictures: {key} is {listed}. Compare runs that "
                "differ in the method alone."
            )


def _scores_of(
    trees: "Sequence[xarray.DataTree]", variable: str, about: dict[str, Any]
) -> pd.DataFrame:
    """Scores of one method, a row per pair, a column per metric; the mean over its runs."""
    frames = []
    for tree in trees:
        if "scores" not in tree.children or variable not in tree["scores"].data_vars:
            raise store.NotComputed(f"the run has no {variable!r}.")
        group = tree["scores"].to_dataset()
        frame = pd.DataFrame(
            np.asarray(group[variable].values, dtype=np.float64),
            index=[str(p) for p in group["pair"].values],
            columns=[str(m) for m in group["metric"].values],
        )
        written = np.asarray(group["written"].values) if "written" in group else np.ones(len(frame))
        frame = frame[written.astype(bool) if variable == "score" else frame.notna().any(axis=1)]
        frames.append(frame)
        for metric, facts in group.attrs.get("metric_facts", {}).items():
            known = about.setdefault(metric, facts)
            if known.get("code") != facts.get("code"):
                raise BadRequest(
                    f"{metric} is {known.get('code')!r} in one run and {facts.get('code')!r} in "
                    "another: two variants of a score are not compared."
                )
    common = frames[0].index
    for frame in frames[1:]:
        common = common.intersection(frame.index, sort=False)
    if common.empty:
        raise store.NotComputed(f"no pair has a {variable!r} in all of its runs.")
    return sum(frame.loc[common] for frame in frames) / len(frames)


def _columns(
    tables_of: Mapping[str, pd.DataFrame], asked: Sequence[str] | None
) -> tuple[list[str], dict[str, str]]:
    """The metrics that every method has, and of the others who lacks them."""
    known = list(dict.fromkeys(m for frame in tables_of.values() for m in frame.columns))
    lacking = {m: [name for name, frame in tables_of.items() if m not in frame] for m in known}
    for metric in asked or ():
        if lacking.get(metric, True):
            who = f" {', '.join(lacking[metric])} lack it." if metric in lacking else ""
            raise BadRequest(
                f"not every run has the score {metric!r}.{who}{did_you_mean(metric, known)}",
                asked=metric,
                known=known,
            )
    columns = list(asked) if asked else [m for m in known if not lacking[m]]
    if not columns:
        raise BadRequest("these runs have no score in common.")
    return columns, {} if asked else {
        m: f"not in {', '.join(who)}" for m, who in lacking.items() if who
    }


def _brought_together(
    tables_of: Mapping[str, pd.DataFrame],
    columns: Sequence[str],
    unavailable: Mapping[str, str],
    about: Mapping[str, Any],
) -> Scores:
    pairs = list(dict.fromkeys(pair for frame in tables_of.values() for pair in frame.index))
    if not any(all(pair in frame.index for frame in tables_of.values()) for pair in pairs):
        raise BadRequest("there is no pair that all of these runs have scored.")
    rows = []
    for method, frame in tables_of.items():
        for pair in pairs:
            scored = pair in frame.index
            values = frame.loc[pair] if scored else {}
            rows.append(
                {
                    "method": method,
                    "name": pair,
                    **{m: float(values[m]) if scored else math.nan for m in columns},
                    "outcome": SCORED if scored else MISSING,
                    "remark": "",
                }
            )
    preset = find_preset(STANDARD)
    rules = {"preset": "that of each run", **{key: getattr(preset, key) for key in RULES[1:]}}
    rules |= {"quantisation": "as the network gives them", "saving": "scored without being saved"}
    empty = {"code": "", "higher_is_better": True, "unit": None, "variant": None}
    facts = {
        m: {**empty, "code": m, **{k: v for k, v in about.get(m, {}).items() if v is not None}}
        for m in columns
    }
    return Scores(
        rows=pd.DataFrame(rows),
        metrics=facts,
        rules=rules,
        methods=list(tables_of),
        pairs=len(pairs),
        unavailable=dict(unavailable),
        kinds={"pictures of stored runs": sum(len(frame) for frame in tables_of.values())},
    )


def _questions(group: Any) -> list[str]:
    names = group.coords.get("scene")
    return [str(n) for n in (names.values if names is not None else range(group.sizes["scene"]))]


def _picture(tree: "xarray.DataTree", variable: str, pair: str) -> np.ndarray | None:
    try:
        return store.read_image(tree, variable, pair)
    except store.StoreError:
        return None
