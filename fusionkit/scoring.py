"""Folders of fused pictures, from any program: matched by name, scored, kept as they come.

Pictures are read ahead by a few and let go after scoring, so memory holds numbers, not pictures.
With a table to write, each row is kept in a file beside it the moment it is known; a killed run
takes up its rows again when the parameters are the same and the files unchanged.

What may happen to a picture is one of :data:`OUTCOMES`, and stands in its row. A score that is
undefined for a picture (the correlation of a constant) is NaN there, counted, and in no mean.
"""

import hashlib
import json
import math
import os
import sys
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from fusionkit.data import (
    CannotWrite,
    MissingFile,
    PairPaths,
    match_all,
    match_fused,
    picture_kind,
    read_image,
)
from fusionkit.devices import pick_device
from fusionkit.errors import BadRequest, MissingWeights
from fusionkit.evaluation import STANDARD, build_metrics, facts, find_preset, score_metric
from fusionkit.protocols import Metric, Preset
from fusionkit.registry import Registry

SCORED = "scored"
UNREADABLE = "unreadable"
SIZES = "sizes differ"
MISSING = "no fused picture"
OUTCOMES = {
    SCORED: "every score was computed; those undefined for this picture are NaN and named",
    UNREADABLE: "the picture or a source cannot be read; no score",
    SIZES: "the picture and its sources differ in size, and nothing is resized; no score",
    MISSING: "the pair has no picture in this folder",
    "no pair": "a picture that bears the name of no pair; not scored",
    "no infrared": "a visible picture without infrared one of its name; not scored",
    "no visible": "an infrared picture without visible one of its name; not scored",
}
"""What may be said of a picture, and what it means."""

FAILED = (UNREADABLE, SIZES)
RULES = ("preset", "gray", "quantisation", "saving")
"""What a score means something only together with; part of every table."""

_CHUNK = {"cpu": 1, "cuda": 16}  # pictures scored at once; one on a CPU, so a run repeats exactly


@dataclass(frozen=True, eq=False)
class Scores:
    """Every score of every picture, and what they are.

    Made by :func:`evaluate_folders`; :mod:`fusionkit.tables` makes summaries and files of it.
    """

    rows: pd.DataFrame
    """One row per picture: ``method``, ``name``, a column per metric, ``outcome``, ``remark``."""
    metrics: Mapping[str, Mapping[str, Any]]
    """:func:`~fusionkit.evaluation.facts` by column."""
    rules: Mapping[str, str]
    """:data:`RULES`, and ``source`` and ``note`` of the preset."""
    methods: Sequence[str]
    pairs: int
    """Pairs found in the source folders."""
    unavailable: Mapping[str, str] = field(default_factory=dict)
    """Metrics of the preset that could not be computed at all, with the reason."""
    kinds: Mapping[str, int] = field(default_factory=dict)
    """Sorts of fused files: ``8-bit grey PNG`` and how many."""
    files: Mapping[str, tuple[PairPaths, Mapping[str, Path]]] = field(default_factory=dict)
    """By name of the pair: the sources, and the fused picture of each method that has one."""
    resumed: int = 0
    """Rows taken over from an earlier run."""
    written: Sequence[Path] = ()
    """The files of the table, where one was asked for."""

    @property
    def scored(self) -> pd.DataFrame:
        """The rows that have scores."""
        return self.rows[self.rows["outcome"] == SCORED]

    @property
    def failed(self) -> pd.DataFrame:
        """The rows of pictures that were there and could not be scored."""
        return self.rows[self.rows["outcome"].isin(FAILED)]

    @property
    def unmatched(self) -> pd.DataFrame:
        """The rows of pictures without partner."""
        return self.rows[~self.rows["outcome"].isin((SCORED, *FAILED))]


class _Job(NamedTuple):
    """A pair and the pictures of it that are to be scored, by method."""

    pair: PairPaths
    fused: dict[str, Path]


class _Item(NamedTuple):
    """One picture on its way: its row as far as known, and what is to be scored, if anything."""

    row: dict[str, Any]
    pictures: tuple[Tensor, Tensor, Tensor] | None
    context: dict[str, Any]


def evaluate_folders(
    ir: str | os.PathLike,
    vi: str | os.PathLike,
    fused: str | os.PathLike | Sequence[str | os.PathLike] | Mapping[str, str | os.PathLike],
    metrics: str | Sequence[str | Metric] | None = None,
    *,
    variant: str | Preset = STANDARD,
    table: str | os.PathLike | None = None,
    resume: bool = True,
    context: Mapping[str, Any] | None = None,
    registry: Registry | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    say: Callable[[str], None] = print,
) -> Scores:
    """Score folders of fused pictures against their sources.

    Args:
        ir, vi: Folders of the sources, matched by name as in :func:`fusionkit.data.match_pairs`.
        fused: A folder per method. Its name is the method's, unless a mapping gives another.
        metrics: Names as for :func:`fusionkit.evaluate`; None takes all of the preset.
        variant: The preset that says which variant a short name stands for.
        table: A ``.csv`` file for the scores of every picture. The rows on their way are kept
            beside it (:func:`rows_file`), and so are the summary tables
            (:func:`fusionkit.tables.write`).
        resume: Take over the rows of an earlier run of the same parameters on unchanged files.
        context: What some metrics read besides three pictures, by name: a folder of pictures
            (``mask``, ``reference``) or of ``.txt`` files (``text``) matched by name, a JSON file
            of numbers by name of pair, a number for all, or an ``encoder``.
        registry: Where names are looked up; the installed plugins if None.
        device: Where to compute.
        batch_size: Pictures of one size scored at once; 1 on a CPU and 16 on a GPU if None.
        say: Is told how far the work is, where there is no terminal for a bar.

    Raises:
        BadRequest: Folders that do not fit, no picture that all methods have, unknown names, a
            metric that needs more context than there is.
        CannotWrite: The table's folder is not writable.
    """
    registry = registry or Registry.from_environment()
    preset = find_preset(variant, registry=registry) if isinstance(variant, str) else variant
    target = None if table is None else _target(table)
    given = dict(context or {})
    built, unavailable = _available(metrics, preset, registry, given)
    matching = match_all(ir, vi)
    folders = name_methods(fused)
    matched, strays = {}, {}
    for method, folder in folders.items():
        matched[method], strays[method] = match_fused(matching.pairs, folder)
    _check_common(matched)
    sources = {key: _source_of(key, value, matching.pairs) for key, value in given.items()}

    place = pick_device(device)
    chunk = batch_size or _CHUNK.get(place.type, 1)
    rules = {"preset": preset.name, **{key: getattr(preset, key) for key in RULES[1:]}}
    about = {key: facts(metric) for key, metric in built.items()}
    key = _digest(rules, about, built, registry, given)
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    kept = Rows(rows_file(target), key, resume=resume) if target is not None else None
    jobs = []
    for pair in matching.pairs:
        todo = {}
        for method in folders:
            if (path := matched[method].get(pair.name)) is None:
                rows[method, pair.name] = _row(method, pair.name, MISSING)
                continue
            files = [path, pair.ir, pair.vi, *_extra_files(sources, pair.name)]
            old = kept.get(method, pair.name) if kept else None
            if old and _holds(old) and old["files"] == _fingerprints(files):
                rows[method, pair.name] = old
            else:
                todo[method] = path
                rows[method, pair.name] = {}  # keeps its place in the order
        if todo:
            jobs.append(_Job(pair, todo))
    count = sum(len(job.fused) for job in jobs)
    resumed = sum(row.get("outcome") == SCORED for row in rows.values())
    progress = _Progress(resumed + count, resumed, say)
    try:
        items = (
            item for loaded in _ahead(lambda job: _load(job, sources), jobs) for item in loaded
        )
        for batch in _batches(items, chunk):
            _score_batch(batch, built, place)
            for row in (item.row for item in batch):
                rows[row["method"], row["name"]] = row
                if kept:
                    kept.add(row)
                progress()
    finally:
        progress.close()
        if kept:
            kept.close()
    everything = [*rows.values(), *_strays(matching.only_ir, matching.only_vi, strays)]
    scores = Scores(
        rows=_frame(everything, list(built)),
        metrics=about,
        rules={**rules, "source": preset.source, "note": preset.note},
        methods=list(folders),
        pairs=len(matching.pairs),
        unavailable=unavailable,
        kinds=dict(Counter(row["kind"] for row in everything if row.get("kind"))),
        files={
            pair.name: (
                pair,
                {m: found[pair.name] for m, found in matched.items() if pair.name in found},
            )
            for pair in matching.pairs
        },
        resumed=resumed,
    )
    if target is not None:
        from fusionkit import tables

        return replace(scores, written=tables.write(scores, target))
    return scores


def evaluate_from_parameters(p: Any, *, say: Callable[[str], None] = print) -> Scores:
    """What ``evaluate.ipynb`` does: :func:`evaluate_folders` of its parameters.

    Without any folder, rendered scenes fused by three simple rules are scored.
    """
    from fusionkit.bench import default_path
    from fusionkit.fusing import write_example

    ir, vi, fused = p.ir, p.vi, p.fused
    table = p.table
    if table is None:
        run = default_path("evaluate", p.model_dump(mode="json", exclude={"table"}))
        table = Path(run).with_suffix(".csv")
    given = [name for name, value in (("ir", ir), ("vi", vi), ("fused", fused)) if value]
    if not given:
        example = write_example(Path(table).with_name("evaluate-example"))
        ir, vi = example.pop("ir"), example.pop("vi")
        fused = example
        say(f"no folders were given: scenes fused by simple rules are scored, in {ir.parent}")
    elif len(given) < 3:
        missing = ", ".join(name for name in ("ir", "vi", "fused") if name not in given)
        raise BadRequest(
            f"{' and '.join(given)} was given without {missing}: name the folders of infrared, "
            "visible and fused pictures, or none of them for an example."
        )
    return evaluate_folders(
        ir, vi, fused, p.metrics or None, variant=p.variant, table=table, resume=p.resume,
        context=p.context, device=p.device, say=say,
    )  # fmt: skip


# --- what was asked ------------------------------------------------------------------------------


def name_methods(
    fused: str | os.PathLike | Sequence[str | os.PathLike] | Mapping[str, str | os.PathLike],
) -> dict[str, Path]:
    """Folders of fused pictures by the name of their method.

    A name is as many last parts of the path as tell the folders apart: ``a/tno`` and ``b/tno``.
    """
    if isinstance(fused, Mapping):
        named = {str(name): Path(folder) for name, folder in fused.items()}
    else:
        given = [fused] if isinstance(fused, (str, os.PathLike)) else list(fused)
        paths = [Path(os.path.abspath(os.path.expanduser(folder))) for folder in given]
        if twice := [str(path) for path, n in Counter(paths).items() if n > 1]:
            raise BadRequest(f"the folder {twice[0]} was given twice as fused pictures.")
        parts = 1
        while len({path.parts[-parts:] for path in paths}) < len(paths):
            parts += 1
        named = {"/".join(path.parts[-parts:]): path for path in paths}
    if not named:
        raise BadRequest("no folder of fused pictures was given.")
    return named


def rows_file(table: str | os.PathLike) -> Path:
    """Where the rows of a table are kept as they come: ``scores.csv`` -> ``scores.rows.jsonl``."""
    return Path(table).with_suffix(".rows.jsonl")


def _target(table: str | os.PathLike) -> Path:
    target = Path(table).expanduser()
    if target.suffix.lower() != ".csv":
        raise BadRequest(
            f"{target}: the table of all pictures is a .csv file; summaries in CSV, Markdown and "
            "LaTeX are written beside it."
        )
    if target.is_dir():
        raise BadRequest(f"{target} is a folder; name a .csv file in it.")
    return target


def _available(
    metrics: Any, preset: Preset, registry: Registry, context: Mapping[str, Any]
) -> tuple[dict[str, Metric], dict[str, str]]:
    """The metrics, and those of a whole preset that lack something, with the reason.

    A metric that was asked for by name is an error where it lacks something.
    """
    asked = list(preset.metrics) if metrics is None else metrics
    asked = [asked] if isinstance(asked, str) or not isinstance(asked, Sequence) else asked
    built: dict[str, Metric] = {}
    unavailable: dict[str, str] = {}
    if not asked:
        raise BadRequest("no metric was asked for; `fusionkit plugins --kind metric` lists them.")
    if twice := [name for name, n in Counter(map(str, asked)).items() if n > 1]:
        raise BadRequest(f"the metric {twice[0]!r} was asked for twice.")
    for entry in asked:
        encoder = context.get("encoder")
        try:
            made = build_metrics([entry], variant=preset, registry=registry, encoder=encoder)
            ((key, metric),) = made.items()
            needs = [n for n in getattr(metric, "needs", ()) if n not in ("fused", "ir", "vi")]
            if missing := [need for need in needs if context.get(need) is None]:
                options = " ".join(f"--with {need}=..." for need in missing)
                raise MissingWeights(
                    f"more than three pictures are needed: {', '.join(missing)} (`{options}`, or "
                    "the argument context)."
                )
        except MissingWeights as error:
            if metrics is not None:
                raise BadRequest(f"the metric {entry!r}: {error}") from error
            unavailable[entry] = str(error)
        else:
            built[key] = metric
    if not built:
        raise BadRequest(
            f"nothing of the preset {preset.name!r} can be computed: "
            + " ".join(reasons_missing(unavailable))
        )
    return built, unavailable


def reasons_missing(unavailable: Mapping[str, str]) -> list[str]:
    """``A, B: reason`` for each different reason."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in unavailable.items():
        by_reason.setdefault(reason, []).append(name)
    return [f"{', '.join(names)}: {reason}" for reason, names in by_reason.items()]


def _check_common(matched: Mapping[str, Mapping[str, Path]]) -> None:
    if not set.intersection(*(set(found) for found in matched.values())):
        listed = ", ".join(f"{method} {len(found)}" for method, found in matched.items())
        raise BadRequest(
            f"there is no pair of which every method has a picture ({listed} matched); methods are "
            "compared on the same pairs only."
        )


def _digest(
    rules: Mapping[str, str],
    about: Mapping[str, Any],
    built: Mapping[str, Metric],
    registry: Registry,
    context: Mapping[str, Any],
) -> str:
    """What an earlier row must agree on to be taken over, besides its files."""
    code = {}
    for key, metric in built.items():
        try:
            owner = registry.provenance("metric", metric.name)
            code[key] = [owner["version"], owner.get("commit")]
        except LookupError:  # an object that was handed in
            code[key] = type(metric).__qualname__
    given = {key: str(value) for key, value in context.items()}
    text = json.dumps([rules, about, code, given], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


# --- context beyond three pictures ---------------------------------------------------------------


def _source_of(key: str, value: Any, pairs: Sequence[PairPaths]) -> Any:
    """A value for all pairs, or a mapping from the name of a pair to its own."""
    if not isinstance(value, (str, os.PathLike)):
        return value
    path = Path(value).expanduser()
    if path.is_dir():
        texts = {p.name: path / f"{p.name}.txt" for p in pairs}
        if any(file.is_file() for file in texts.values()):
            return {name: file for name, file in texts.items() if file.is_file()}
        return match_fused(pairs, path)[0]
    if len(pairs) == 1 and path.is_file() and path.suffix != ".json":
        return {pairs[0].name: path}
    if path.suffix == ".json" and path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    try:
        return float(value)
    except (TypeError, ValueError):
        if path.exists() or key != "text":
            raise MissingFile(
                f"{key}={value}: a folder, a .json file of numbers by name, or a number is needed."
            ) from None
        return str(value)  # one sentence for every picture


def _extra_files(sources: Mapping[str, Any], name: str) -> list[Path]:
    found = (value.get(name) for value in sources.values() if isinstance(value, Mapping))
    return [path for path in found if isinstance(path, Path)]


def _context(sources: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The context of one pair, each tensor with a first axis of one."""
    context: dict[str, Any] = {}
    for key, value in sources.items():
        if isinstance(value, Mapping):
            if name not in value:
                raise BadRequest(f"there is no {key} for the pair {name!r}.")
            value = value[name]
        if isinstance(value, Path) and value.suffix == ".txt":
            value = [value.read_text(encoding="utf-8").strip()]
        elif isinstance(value, Path):
            value = read_image(value, 1 if key == "mask" else None)[None]
        elif isinstance(value, (int, float)):
            value = torch.tensor([float(value)], dtype=torch.float64)
        elif isinstance(value, str):
            value = [value]
        context[key] = value
    return context


# --- from files to rows --------------------------------------------------------------------------


def _row(method: str, name: str, outcome: str, remark: str = "", **more: Any) -> dict[str, Any]:
    return {"method": method, "name": name, "outcome": outcome, "remark": remark, **more}


def _holds(row: Mapping[str, Any]) -> bool:
    """Whether a row needs no second try: complete, whatever its scores are."""
    return row["outcome"] == SCORED and not row.get("refused")


def _fingerprints(files: Iterable[Path]) -> list[list]:
    """Path, size and time of change; a file that is gone has none."""
    found = []
    for file in files:
        try:
            status = file.stat()
            found.append([str(file), status.st_size, status.st_mtime_ns])
        except OSError:
            found.append([str(file), None, None])
    return found


def _load(job: _Job, sources: Mapping[str, Any]) -> list[_Item]:
    """The pictures of one pair; the sources are read once for all methods."""
    name, ir, vi = job.pair
    fault = ""
    try:
        sides = read_image(ir), read_image(vi)
        context = _context(sources, name)
        known = [
            f"{role} {remark}"
            for role, image, path in zip(("infrared:", "visible:"), sides, (ir, vi), strict=True)
            for remark in _peculiar(image, picture_kind(path))
        ]
    except (BadRequest, OSError) as error:
        fault, context, known = f"source: {error}", {}, []
    items = []
    for method, path in job.fused.items():
        files = _fingerprints([path, ir, vi, *_extra_files(sources, name)])
        row = _row(method, name, SCORED, files=files)
        items.append(_Item(row, None, {}))
        if fault:
            row |= {"outcome": UNREADABLE, "remark": fault}
            continue
        try:
            fused = read_image(path)
            row["kind"] = picture_kind(path)
        except (BadRequest, OSError) as error:
            row |= {"outcome": UNREADABLE, "remark": str(error)}
            continue
        pictures = (fused, *sides)
        shapes = {
            role: tuple(image.shape[-2:])
            for role, image in (
                *zip(("fused", "infrared", "visible"), pictures, strict=True),
                *((key, value) for key, value in context.items() if _is_picture(value)),
            )
        }
        if len(set(shapes.values())) > 1:
            sizes = ", ".join(f"{role} {h} x {w}" for role, (h, w) in shapes.items())
            row |= {"outcome": SIZES, "remark": f"{sizes}; nothing is resized"}
            continue
        row["remark"] = "; ".join([*_peculiar(fused, row["kind"]), *known])
        items[-1] = _Item(row, pictures, context)
    return items


def _is_picture(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 4


def _peculiar(image: Tensor, kind: str) -> list[str]:
    """What a reader of the scores should know about this picture."""
    low, high = (float(v) for v in image.aminmax())
    remarks = []
    if kind.startswith("16-bit"):
        remarks.append("16 bits, divided by 65535")
        if high < 0.25:
            remarks.append("less than a quarter of its range is used")
    if low == high:
        remarks.append("constant picture")
    return remarks


def _ahead(work: Callable[[Any], Any], jobs: Iterable, threads: int = 2) -> Iterator[Any]:
    """Results in order, a few computed ahead in threads; never more than those few at a time."""
    pool = ThreadPoolExecutor(threads)
    waiting: deque = deque()
    try:
        for job in jobs:
            waiting.append(pool.submit(work, job))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _batches(items: Iterable[_Item], most: int) -> Iterator[list[_Item]]:
    """Neighbours whose pictures can be stacked, at most so many; what has none goes alone."""
    batch: list[_Item] = []
    for item in items:
        if batch and (len(batch) >= most or _shapes(batch[0]) != _shapes(item)):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def _shapes(item: _Item) -> Any:
    if item.pictures is None:
        return id(item)
    extra = (v.shape for v in item.context.values() if isinstance(v, Tensor))
    return tuple(p.shape for p in item.pictures), tuple(extra)


def _score_batch(batch: Sequence[_Item], metrics: Mapping[str, Metric], device: Any) -> None:
    """Fill in the values of the rows."""
    if batch[0].pictures is None:
        return
    columns = zip(*(item.pictures for item in batch), strict=True)
    pictures = [torch.stack(column).to(device) for column in columns]
    context = {
        key: _stacked([item.context[key] for item in batch], device) for key in batch[0].context
    }
    lost: dict[str, str] = {}
    for item in batch:
        item.row["values"] = {}
    for key, metric in metrics.items():
        try:
            with torch.no_grad():
                values = score_metric(key, metric, pictures, context).tolist()
        except (BadRequest, MissingWeights) as error:
            lost[key] = str(error)
            values = [math.nan] * len(batch)
        for item, value in zip(batch, values, strict=True):
            item.row["values"][key] = value
    for item in batch:
        values = item.row["values"]
        undefined = [k for k, v in values.items() if math.isnan(v) and k not in lost]
        infinite = [k for k, v in values.items() if math.isinf(v)]
        item.row["refused"] = list(lost)
        remarks = [item.row["remark"], *(f"{k}: {reason}" for k, reason in lost.items())]
        for what, names in (("undefined", undefined), ("infinite", infinite)):
            remarks += [f"{what}: {', '.join(names)}"] if names else []
        item.row["remark"] = "; ".join(filter(None, remarks))


def _stacked(values: list[Any], device: Any) -> Any:
    if isinstance(values[0], Tensor):
        return torch.cat(values).to(device)
    if isinstance(values[0], list):
        return [text for value in values for text in value]
    return values[0]


def _strays(
    only_ir: Sequence[Path], only_vi: Sequence[Path], fused: Mapping[str, Sequence[Path]]
) -> list[dict[str, Any]]:
    """A row for each file without partner, called by its path."""
    return [
        *(_row("", str(file), "no visible") for file in only_ir),
        *(_row("", str(file), "no infrared") for file in only_vi),
        *(_row(m, str(file), "no pair") for m, files in fused.items() for file in files),
    ]


def _frame(rows: Iterable[Mapping[str, Any]], metrics: Sequence[str]) -> pd.DataFrame:
    nothing: dict[str, float] = {}
    flat = [
        {
            "method": row["method"],
            "name": row["name"],
            **{key: row.get("values", nothing).get(key, math.nan) for key in metrics},
            "outcome": row["outcome"],
            "remark": row["remark"],
        }
        for row in rows
    ]
    return pd.DataFrame(flat, columns=["method", "name", *metrics, "outcome", "remark"])


# --- rows kept as they come ----------------------------------------------------------------------


class Rows:
    """The rows of a table on their way, one JSON document a line.

    The first line says which parameters they belong to; rows of others are dropped. A line is
    appended whole; one that a kill cut short is dropped at the next opening, and the file is
    replaced in one step, so that a reader never sees half of it.
    """

    def __init__(self, path: Path, key: str, *, resume: bool = True) -> None:
        self.path, self._rows = path, {}
        head = {"fusionkit": "rows of an evaluation", "format": 1, "key": key}
        if resume:
            for row in self._read(head):
                self._rows[row["method"], row["name"]] = row
        draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                draft.write_text(
                    "".join(_line(d) for d in (head, *self._rows.values())), encoding="utf-8"
                )
                os.replace(draft, path)
            finally:
                draft.unlink(missing_ok=True)
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise CannotWrite(f"cannot write {path} ({error.strerror or error}).") from error

    def _read(self, head: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        try:
            lines = self.path.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError):
            return
        for number, line in enumerate(lines):
            try:
                document = json.loads(line)
            except ValueError:
                continue  # cut short by a kill
            if number == 0 and document != head:
                return
            if number and isinstance(document, dict) and "outcome" in document:
                yield document

    def get(self, method: str, name: str) -> dict[str, Any] | None:
        """The row of an earlier run, if there is one."""
        return self._rows.get((method, name))

    def add(self, row: Mapping[str, Any]) -> None:
        """Keep one row now."""
        self._file.write(_line(row).encode())

    def close(self) -> None:
        self._file.close()


def _line(document: Mapping[str, Any]) -> str:
    return json.dumps(document, ensure_ascii=False) + "\n"


class _Progress:
    """A bar in a terminal, a line each quarter elsewhere."""

    def __init__(self, total: int, first: int, say: Callable[[str], None]) -> None:
        self.total, self.done, self.say, self.bar = total, first, say, None
        if first:
            say(f"{first} of {total} pictures were scored before, with the same parameters.")
        if sys.stderr is not None and sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=total, initial=first, desc="scoring", unit="picture")

    def __call__(self) -> None:
        self.done += 1
        if self.bar is not None:
            self.bar.update()
        elif self.done * 4 // self.total > (self.done - 1) * 4 // self.total:
            self.say(f"scored {self.done} of {self.total} pictures")

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
