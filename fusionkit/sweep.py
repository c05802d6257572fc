"""One notebook under many parameters: each cell of the grid a papermill run in a kernel of its own.

A sweep is a folder. Every cell has a folder in it with ``cell.json`` (parameters, status, error,
how often it was begun), the executed notebook as far as it came, and the run's store; all that is
known about a sweep is read from there. So it makes no difference who ran a cell: this process, a
worker beside it, or one on another machine that sees the same folder.

A cell that is complete is not run again as long as its parameters, its notebook and the code are
the same. One that failed, was stopped, or lost its worker is begun again and continues from its
store. Nothing here imports torch or dask before it is needed.
"""

import contextlib
import csv
import hashlib
import html
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Any

from fusionkit.errors import BadRequest, FusionkitError
from fusionkit.store import provenance

OWN = {"store": "run.zarr", "table": "scores.csv", "output": "output"}
"""Parameters that say where a notebook writes, and what stands there in a cell's folder."""
SEEDS = ("seeds", "seed")
BEAT = 1.0
"""Seconds between two signs of life of a running cell."""
SILENT = 60.0
"""Seconds without one after which a cell on another machine is taken to be lost."""
GRACE = 30.0
"""Seconds between asking a kernel to stop, so that it saves its training, and killing it."""
LARGEST = 4 << 20
"""Bytes of a file beyond which only its size and name count as code."""
FACTS = ("status", "seconds", "attempts", "result", "error", "notebook", "store")
"""What the table of results says of every cell."""
TABLE, TESTS, PAGE, PLOT = "results.csv", "significance.csv", "index.html", "scores.png"


@dataclass(frozen=True)
class Cell:
    """One run of the notebook."""

    name: str
    """What it varies, and a few characters that make it unique; also its folder's name."""
    varied: Mapping[str, Any]
    """The parameters that the sweep sets."""
    parameters: Mapping[str, Any]
    """All that the notebook is given."""


def grid(
    parameters: Mapping[str, Sequence[Any]], rows: Sequence[Mapping[str, Any]] = ({},)
) -> list[dict[str, Any]]:
    """Every combination of the values, with every row.

    Example:
        >>> grid({"a": [1, 2]}, [{"b": 3}])
        [{'b': 3, 'a': 1}, {'b': 3, 'a': 2}]
    """
    for row in rows:
        if both := sorted(set(row) & set(parameters)):
            raise BadRequest(f"{both[0]} is given twice: as a column of the table and by -p.")
    return [
        {**row, **dict(zip(parameters, values, strict=True))}
        for row in rows
        for values in itertools.product(*parameters.values())
    ]


def values_of(text: str) -> list[Any]:
    """``film,gate``, ``1,2``, ``[0,1],[2,3]``, ``"a, b",c``: values between commas.

    A comma inside brackets or double quotes belongs to its value. Each is read as JSON, or taken
    as text where it is none.
    """
    parts, depth, quoted = [""], 0, False
    for before, sign in zip(" " + text, text, strict=False):
        quoted ^= sign == '"' and before != "\\"
        depth += 0 if quoted else (sign in "[{") - (sign in "]}")
        if sign == "," and not depth and not quoted:
            parts.append("")
        else:
            parts[-1] += sign
    words = {"True": True, "False": False, "None": None}
    found = []
    for part in map(str.strip, parts):
        try:
            found.append(words[part] if part in words else json.loads(part))
        except ValueError:
            found.append(part)
    return found


def read_rows(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Parameters by row: a CSV file with their names in the first line, or a JSON list of objects.

    An empty field of a CSV file leaves the parameter at the notebook's default.
    """
    path = Path(path)
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix.lower() == ".json":
        try:
            rows = json.loads(text)
        except ValueError as error:
            raise BadRequest(f"{path} is no JSON: {error}.") from None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise BadRequest(f"{path} is no list of objects, each the parameters of one run.")
    else:
        lines = list(csv.reader(text.splitlines()))
        names, rows = [name.strip() for name in lines[0]] if lines else [], []
        for number, line in enumerate(lines[1:], start=2):
            if not any(field.strip() for field in line):
                continue
            if len(line) != len(names):
                raise BadRequest(
                    f"{path}, line {number}: {len(line)} values for the {len(names)} parameters "
                    f"{', '.join(names)}; a value with a comma stands in double quotes."
                )
            fields = zip(names, line, strict=True)
            rows.append({name: _value(field) for name, field in fields if field.strip()})
    if not rows:
        raise BadRequest(f"{path} holds no row of parameters.")
    return rows


def _value(field: str) -> Any:
    found = values_of(field)
    return found[0] if len(found) == 1 else field


def cells_of(
    notebook: str | os.PathLike[str], combinations: Sequence[Mapping[str, Any]], folder: Path
) -> list[Cell]:
    """The cells of a sweep, every one checked before the first is run.

    Raises:
        BadParameters: a name or value that the notebook does not take; BadRequest for a
            combination that stands there twice.
    """
    from fusionkit.notebook import check_file, declared_parameters

    declared, cells = declared_parameters(notebook), {}
    for varied in combinations:
        given = check_file(notebook, varied)
        text = json.dumps([Path(notebook).name, given], sort_keys=True)
        words = ",".join(f"{name}={_short(value)}" for name, value in varied.items())
        slug = re.sub(r"[^\w.=,+-]+", "_", words)[:80]
        name = f"{slug or 'defaults'}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
        if name in cells:
            raise BadRequest(f"the combination {words or 'without parameters'} stands there twice.")
        own = {
            place: str(folder / "cells" / name / inside)
            for place, inside in OWN.items()
            if place in declared and declared[place] is None and place not in given
        }
        cells[name] = Cell(name, dict(varied), given | own)
    return list(cells.values())


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=("+", ":"))


def code_version(notebook: str | os.PathLike[str]) -> str:
    """Changes with the notebook, the host, and every installed plugin: with their files."""
    digest = hashlib.sha256()
    for cell in json.loads(Path(notebook).read_text(encoding="utf-8"))["cells"]:
        digest.update(json.dumps([cell["cell_type"], "".join(cell["source"])]).encode())
    points = metadata.entry_points(group="fusionkit")
    for package in sorted({"fusionkit", *(p.value.split(":")[0].split(".")[0] for p in points)}):
        spec = util.find_spec(package)
        if spec is None or spec.origin is None:
            continue
        origin = Path(spec.origin)
        home = origin.parent if spec.submodule_search_locations else origin
        for file in sorted(home.rglob("*")) if home.is_dir() else [home]:
            if "__pycache__" in file.parts or not file.is_file():
                continue
            size = file.stat().st_size
            digest.update(f"{package}/{file.relative_to(home.parent)} {size}".encode())
            if size <= LARGEST:
                digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


# --- running -------------------------------------------------------------------------------------


def sweep(
    notebook: str | os.PathLike[str],
    combinations: Sequence[Mapping[str, Any]],
    output: str | os.PathLike[str],
    *,
    scheduler: str | None = None,
    workers: int | None = None,
    retries: int = 0,
    resume: bool = True,
    say: Callable[[str], None] = print,
) -> Any:
    """Run a notebook under every combination of parameters, and bring the results together.

    Args:
        notebook: a notebook file with a cell tagged ``parameters``.
        combinations: parameters of each run; :func:`grid` makes them.
        output: folder of the sweep; one that every worker sees under this path.
        scheduler: address of a Dask scheduler, ``tcp://host:8786``, or the path of a scheduler
            file; its workers run the cells.
        workers: start so many processes here instead. With neither, cells run one after the other.
        retries: how often a cell that failed is begun again.
        resume: False runs complete cells again, too.
        say: told of every cell's progress in one line.

    Returns:
        A data frame with a row per cell, as written to ``results.csv``.
    """
    notebook, folder = Path(notebook).resolve(), Path(output).resolve()
    if scheduler is not None and workers is not None:
        raise BadRequest("give the address of a scheduler or a number of workers, not both.")
    cells = cells_of(notebook, combinations, folder)
    version = code_version(notebook)
    waiting: list[dict[str, Any]] = []
    _STOP.clear()
    for cell in cells:
        known = read_cell(folder, cell.name)
        if resume and known.get("status") == "complete" and known.get("version") == version:
            continue
        if known and known.get("version") != version:
            say(f"{labels(cells)[cell.name]}: was run by other code, so it starts over")
        waiting.append(
            {
                "notebook": str(notebook),
                "folder": str(folder),
                "name": cell.name,
                "varied": cell.varied,
                "parameters": cell.parameters,
                "version": version,
                "attempts": retries + 1,
                "resume": resume,
                "cwd": str(Path.cwd()),
            }
        )
    say(f"{len(cells)} cells, {len(cells) - len(waiting)} complete before; {folder}")
    with _executor(scheduler, workers, len(waiting)) as executor:
        running = {executor.submit(run_cell, work): work["name"] for work in waiting}
        _watch(running, labels(cells), folder, say)
    return collect(folder, cells, say=say)


@contextlib.contextmanager
def _executor(scheduler: str | None, workers: int | None, count: int) -> Iterator[Any]:
    """Whatever runs functions: a thread of this process, or Dask's workers."""
    if not count or (scheduler is None and workers is None):
        with futures.ThreadPoolExecutor(1) as executor:
            try:
                yield executor
            except BaseException:
                executor.shutdown(wait=False, cancel_futures=True)
                _STOP.set()
                raise
        return
    try:
        from distributed import Client, LocalCluster
    except ModuleNotFoundError:
        raise BadRequest("several workers need Dask: pip install 'fusionkit[scale]'.") from None
    with contextlib.ExitStack() as stack:
        if scheduler is None:
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="sweep-"))
            threads = str(max(1, (os.cpu_count() or 1) // workers))
            os.environ.setdefault("OMP_NUM_THREADS", threads)  # the workers inherit it
            where: dict[str, Any] = {
                "address": stack.enter_context(
                    LocalCluster(
                        n_workers=min(workers, count),
                        threads_per_worker=1,
                        dashboard_address=None,
                        local_directory=scratch,
                        silence_logs="ERROR",
                    )
                )
            }
        elif os.path.exists(scheduler):
            where = {"scheduler_file": scheduler}
        else:
            where = {"address": scheduler}
        try:
            client = stack.enter_context(Client(**where, timeout=30, set_as_default=False))
        except (OSError, ValueError) as error:
            raise FusionkitError(f"no Dask scheduler answers at {scheduler}: {error}") from None
        yield client.get_executor(pure=False)


def labels(cells: Sequence[Cell]) -> dict[str, str]:
    """What a line calls each cell: by the parameters in which the cells differ."""
    names = dict.fromkeys(name for cell in cells for name in cell.varied)
    telling = [n for n in names if len({_short(cell.varied.get(n)) for cell in cells}) > 1]
    return {
        cell.name: ",".join(f"{n}={_short(cell.varied[n])}" for n in telling if n in cell.varied)
        or "defaults"
        for cell in cells
    }


def _watch(
    running: Mapping[Any, str],
    called: Mapping[str, str],
    folder: Path,
    say: Callable[[str], None],
) -> None:
    """Say how far each cell is until all are done."""
    told: dict[str, str] = {}
    pending = set(running)
    while pending:
        done, pending = futures.wait(pending, timeout=1.0)
        for future in done:
            name = running[future]
            if error := future.exception():  # the worker, not the notebook
                _write(folder, name, {"status": "failed", "error": f"no worker: {error}"})
        for name in running.values():
            line = _line(folder, name)
            if line and told.get(name) != line:
                told[name] = line
                say(f"{called[name]}: {line}")


def _line(folder: Path, name: str) -> str:
    """How far a cell is, in words."""
    known = read_cell(folder, name)
    status = known.get("status", "")
    if status != "running":
        first = str(known.get("error", "")).strip().splitlines()
        return status + (f": {first[0]}" if first else "")
    done, count = _executed(folder / "cells" / name / "notebook.ipynb")
    return f"notebook cell {done} of {count}" + _step(known.get("parameters", {}).get("store"))


def _executed(path: Path) -> tuple[int, int]:
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError):
        return 0, 0
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    return sum(cell["execution_count"] is not None for cell in code), len(code)


def _step(path: str | None) -> str:
    """What a run says about itself while it is written: arm, seed, step."""
    try:
        root = json.loads(Path(path or "", "zarr.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    said = root.get("attributes", {}).get("progress")
    return f"; {said}" if said else ""


_STOP = threading.Event()
"""Set where the sweep is given up, for cells that run in a thread of it."""


def run_cell(work: Mapping[str, Any]) -> str:
    """Run one cell in a process of its own, where it is; returns its status.

    The process ends with the one that asked for it: a worker that is killed leaves no kernel
    behind. A cell that somebody else is just running is waited for.
    """
    folder, name = Path(work["folder"]), work["name"]
    here = folder / "cells" / name
    here.mkdir(parents=True, exist_ok=True)
    if (found := code_version(work["notebook"])) != work["version"]:
        note = f"the code here ({provenance.this_process()['host']}) is not that of the sweep"
        _write(folder, name, {**_facts(work), "status": "failed", "error": f"{note}: {found}"})
        return "failed"
    _wait_for_others(folder, name)
    status = ""
    for attempt in range(work["attempts"]):
        known = read_cell(folder, name)
        same = known.get("version") == work["version"]
        if same and known.get("status") == "complete" and (work["resume"] or attempt):
            return "complete"
        begun = int(known.get("attempts", 0)) if same else 0
        over = not attempt and not (same and work["resume"])
        facts = {**_facts(work), "attempts": begun + 1, "over": over}
        _write(folder, name, {**facts, "status": "waiting"}, replace=True)
        with (here / "log.txt").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "fusionkit.sweep", str(here), str(os.getpid())],
                cwd=work["cwd"] if Path(work["cwd"]).is_dir() else here,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the sweep, which passes it on
            )
        while process.poll() is None:
            if _STOP.wait(0.2):
                process.terminate()
                process.wait()
        status = read_cell(folder, name).get("status")
        if status not in ("complete", "failed", "stopped"):
            tail = (here / "log.txt").read_text(errors="replace").strip().splitlines()[-1:]
            error = f"the cell's process ended with status {process.returncode}. {' '.join(tail)}"
            _write(folder, name, {"status": "failed", "error": error})
            status = "failed"
        if status != "failed" or _STOP.is_set():
            break
    return str(status)


def _facts(work: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("name", "varied", "parameters", "version", "notebook")
    return {key: work[key] for key in kept}


def _wait_for_others(folder: Path, name: str) -> None:
    """Until nobody runs this cell: here, or as far as can be told on another machine."""
    while (known := read_cell(folder, name)).get("status") == "running":
        alive = provenance.is_alive(known["process"])
        if alive is False or (alive is None and time.time() - known["heartbeat"] > SILENT):
            return
        time.sleep(BEAT)


def read_cell(folder: Path, name: str) -> dict[str, Any]:
    """What is known of a cell; nothing where it was never begun."""
    try:
        return json.loads((folder / "cells" / name / "cell.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}


def _write(folder: Path, name: str, facts: Mapping[str, Any], *, replace: bool = False) -> None:
    """Change some facts of a cell; the file is always whole."""
    file = folder / "cells" / name / "cell.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    known = {} if replace else read_cell(folder, name)
    beside = file.with_name(f".cell.{os.getpid()}.{threading.get_ident()}")
    beside.write_text(json.dumps(known | dict(facts), indent=2, default=str), encoding="utf-8")
    os.replace(beside, file)


# --- the process of one cell ---------------------------------------------------------------------


def main(here: str, parent: str) -> int:
    """Execute the cell of a folder; the exit status says whether it went through."""
    cell = Path(here)
    folder, name = cell.parents[1], cell.name
    known = read_cell(folder, name)
    lock, ended = threading.Lock(), threading.Event()
    stopped: list[str] = []

    def write(**facts: Any) -> None:
        with lock:
            _write(folder, name, facts)

    def stop(why: str) -> None:
        """Let the kernel save its training, then see that it ends."""
        if not stopped:
            stopped.append(why)
            threading.Thread(target=_end_children, daemon=True).start()

    def beat() -> None:
        while not ended.wait(BEAT):
            write(heartbeat=time.time())
            if os.getppid() != int(parent):
                stop("its worker is gone")

    signal.signal(signal.SIGTERM, lambda *_: stop("it was stopped"))
    began = time.time()
    write(
        status="running", process=provenance.this_process(), heartbeat=began, started=began,
        python=sys.executable,
    )  # fmt: skip
    threading.Thread(target=beat, daemon=True).start()
    status, error = "complete", ""
    try:
        _execute(known, cell)
    except Exception as reason:
        status, error = "failed", _said(reason)
    if stopped:
        status, error = "stopped", f"{stopped[0]}. {error}".strip()
    ended.set()
    write(status=status, error=error, ended=time.time(), seconds=round(time.time() - began, 3))
    return 0 if status == "complete" else 1


def _execute(known: Mapping[str, Any], cell: Path) -> None:
    import papermill

    from fusionkit.notebook import declared_parameters, launch_environment

    os.environ.update(launch_environment())
    parameters = dict(known["parameters"])
    if known["over"] and "resume" in declared_parameters(known["notebook"]):
        parameters["resume"] = False
    papermill.execute_notebook(
        known["notebook"],
        str(cell / "notebook.ipynb"),
        parameters=parameters,
        start_timeout=300,
        progress_bar=False,
    )


def _said(error: Exception) -> str:
    """The message of what went wrong in a notebook, without papermill's frame around it."""
    name, value = getattr(error, "ename", None), getattr(error, "evalue", None)
    return f"{name}: {value}" if name else f"{type(error).__name__}: {error}"


def _end_children() -> None:
    import psutil

    children = psutil.Process().children(recursive=True)
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.terminate()
    for child in psutil.wait_procs(children, timeout=GRACE)[1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


# --- results -------------------------------------------------------------------------------------


def collect(
    folder: str | os.PathLike[str],
    cells: Sequence[Cell] | None = None,
    *,
    say: Callable[[str], None] = print,
) -> Any:
    """One table over all cells of a sweep, written with tests, a plot and a page beside them.

    Args:
        folder: of the sweep.
        cells: which cells; every one that was ever begun in the folder if None.

    Returns:
        A data frame with a row per cell: what it varied, ``status``, ``seconds``, ``attempts``, the
        mean of every score and measure of text control, ``result``, ``error``, ``notebook`` and
        ``store``, the last two relative to the folder.
    """
    import pandas as pd

    folder = Path(folder).resolve()
    names = [cell.name for cell in cells or ()] or sorted(
        path.parent.name for path in folder.glob("cells/*/cell.json")
    )
    if not names:
        raise BadRequest(f"{folder} holds no cell of a sweep.")
    rows: list[dict[str, Any]] = []
    varied: dict[str, None] = {}
    for name in names:
        known = read_cell(folder, name)
        row = {_column(key): value for key, value in known.get("varied", {}).items()}
        varied |= dict.fromkeys(row)
        row |= {key: known.get(key) for key in ("status", "seconds", "attempts")}
        path = known.get("parameters", {}).get("store")
        measured, result = _measured(path) if known.get("status") == "complete" else ({}, None)
        row |= measured | {"result": result, "error": known.get("error")}
        row["notebook"] = f"cells/{name}/notebook.ipynb"
        row["store"] = None if path is None else os.path.relpath(path, folder)
        rows.append(row)
    table = pd.DataFrame(rows)
    for key in table.columns:
        if table[key].map(lambda value: isinstance(value, (list, dict))).any():
            table[key] = table[key].map(lambda v: json.dumps(v) if v is not None else None)
    last = [key for key in ("result", "error", "notebook", "store") if key in table]
    first = [*varied, "status", "seconds", "attempts"]
    measures = [key for key in table.columns if key not in (*first, *last)]
    table = table[[*first, *measures, *last]]
    table.to_csv(folder / TABLE, index=False)
    settings = [k for k in varied if k not in SEEDS and table[k].nunique(dropna=False) > 1]
    tests = significance(table, settings, measures)
    tests.to_csv(folder / TESTS, index=False)
    stores = [row["store"] for row in rows if row["status"] == "complete" and row["store"]]
    remark = _plot(folder, [str(folder / path) for path in stores])
    _page(folder, table, list(varied), tests, remark)
    for status, count in table["status"].value_counts().items():
        say(f"{count} {status}")
    say(f"table     {folder / TABLE}\npage      {folder / PAGE}")
    return table


def _column(parameter: str) -> str:
    """A parameter's column; one that is called like a fact about the cell says that it was set."""
    return f"{parameter} (set)" if parameter in FACTS else parameter


def _measured(path: str | None) -> tuple[dict[str, float], str | None]:
    """Means of what a run measured: scores over its pairs, text control of its last arm."""
    from fusionkit import store

    if path is None or ("://" not in path and not Path(path, "zarr.json").is_file()):
        return {}, None
    tree, found = store.open_run(path), {}
    if "scores" in tree.children and "score" in tree["scores"].data_vars:
        means = tree["scores"]["score"].mean("pair")
        found |= {str(m): float(v) for m, v in zip(means["metric"].values, means.values, strict=1)}
    if "control" in tree.children:
        last = tree["control"].to_dataset().isel(arm=-1)
        for name, values in last.data_vars.items():
            if set(values.dims) == {"seed"} and name != "written":
                found[str(name)] = float(values.mean())
    return found, tree.attrs.get("result")


def significance(table: Any, varied: Sequence[str], measures: Sequence[str]) -> Any:
    """Do two settings differ by more than the luck of the seeds? A row per measure and two of them.

    A setting is what the sweep varied besides the seeds. Means of the runs are compared seed by
    seed (:func:`fusionkit.statistics.paired_difference`); with n seeds no p falls below 2 / 2**n,
    so five are the fewest that can reach 0.1 and six 0.05. ``p_holm`` is corrected for all pairs
    of settings of one measure. Two settings with fewer than two seeds in common have no row.
    """
    import pandas as pd

    from fusionkit.statistics import holm, paired_difference

    columns = ["measure", "first", "second", "difference", "low", "high", "seeds", "p", "p_holm"]
    seeds = [key for key in SEEDS if key in table]
    done = table[table["status"] == "complete"]
    if not seeds or not varied or done.empty:
        return pd.DataFrame(columns=columns)
    label = done[list(varied)].astype(str).agg(lambda r: ", ".join(
        value if len(varied) == 1 else f"{key} {value}" for key, value in r.items()
    ), axis=1)  # fmt: skip
    rows = []
    for measure in measures:
        wide = done.assign(_label=label).pivot_table(
            index=seeds[0], columns="_label", values=measure, sort=False
        )
        found = []
        for a, b in itertools.combinations(wide.columns, 2):
            both = wide[[a, b]].dropna()
            if len(both) < 2:
                continue
            test = paired_difference(both[a].to_numpy(), both[b].to_numpy())
            found.append(
                [measure, a, b, test.mean, test.interval.low, test.interval.high, len(both), test.p]
            )
        corrected = holm([row[-1] for row in found])
        rows += [[*row, p] for row, p in zip(found, corrected, strict=True)]
    return pd.DataFrame(rows, columns=columns)


def _plot(folder: Path, stores: Sequence[str]) -> str:
    """The scores of all complete cells in one picture, or why there is none."""
    (folder / PLOT).unlink(missing_ok=True)
    if not stores:
        return "No complete cell has a store."
    from fusionkit.comparison import compare

    try:
        found = compare(list(stores))
    except FusionkitError as error:  # cells on different data, say
        return f"No plot: {error}"
    (folder / PLOT).write_bytes(found.plot()._repr_png_())
    return "Scores of all held-out pairs; runs that differ in their seeds alone are one method."


def _page(folder: Path, table: Any, varied: Sequence[str], tests: Any, remark: str) -> None:
    """What differs between the cells, with links, as a table; what they share above it."""
    same = [key for key in varied if len(table) > 1 and table[key].nunique(dropna=False) == 1]
    shared = ", ".join(f"{key} {table[key].iloc[0]}" for key in same)
    first = [*(key for key in varied if key not in same), "status", "notebook", "store"]
    last = ["result", "error"]
    between = [key for key in table.columns if key not in (*same, *first, *last)]
    linked = table[[*first, *between, *last]].copy()
    for key in linked.columns:
        if key in ("notebook", "store"):
            form = '<a href="{0}">' + key + "</a>"
        else:
            form = "<div class=said>{0}</div>" if key in ("result", "error") else "{0}"
        linked[key] = [
            form.format(html.escape(v)) if isinstance(v, str) and v else v for v in linked[key]
        ]
    picture = f'<p><img src="{PLOT}" alt="scores"></p>' if (folder / PLOT).exists() else ""
    parts = [
        "<!doctype html><meta charset=utf-8><title>Sweep</title>",
        "<style>body{font:14px sans-serif;margin:2em}td,th{padding:2px 8px;text-align:left;"
        "vertical-align:top}table{border-collapse:collapse}tr{border-bottom:1px solid #ddd}"
        "img{max-width:100%}.said{width:26em;font-size:12px}</style>",
        f"<h1>{html.escape(folder.name)}</h1>",
        f"<p>All cells: {html.escape(shared)}.</p>" if shared else "",
        linked.to_html(escape=False, index=False, na_rep="", float_format="%.4g", border=0),
        f"<p>{html.escape(remark)}</p>{picture}",
        "<h2>Differences over seeds</h2>" if len(tests) else "",
        tests.to_html(index=False, float_format="%.3g", border=0) if len(tests) else "",
    ]
    (folder / PAGE).write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
