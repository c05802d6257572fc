"""A sweep over small notebooks: what is run, what is not run again, what becomes of failures."""

import json
import os
import signal
import sys
import threading
import time
from concurrent import futures
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest

from fusionkit import cli, sweep
from fusionkit.errors import BadRequest
from fusionkit.notebook import BadParameters

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

PARAMETERS = (
    'scheme = "film"\nseeds = [0]\nfail = False\nseconds = 0.0\nstore = None\nresume = True'
)
WORK = """
import os, pathlib, time
folder = pathlib.Path(store).parent
(folder / "begun").open("a").write(f"{resume} {os.getpid()}\\n")
if fail and not (folder / "mended").exists():
    raise ValueError(f"no luck with {scheme}")
end = time.time() + seconds
while time.time() < end and not (folder / "mended").exists():
    time.sleep(0.1)
"""
STORE = """
from fusionkit.store import create_run
run = create_run(store, parameters={"scheme": scheme, "seeds": seeds}, recipe={}, components={},
                 seed=seeds, device="cpu", resume=resume)
with run:
    run.progress("film, seed 0: step 3 of 9")
    run.declare_pairs(["a", "b"], 4, 4, [(4, 4), (4, 4)])
    run.declare_metrics({"EN": {"code": "EN", "higher_is_better": True}})
    for k, pair in enumerate("ab"):
        run.put_scores("score", pair, {"EN": k + 10 * seeds[0] + (scheme == "gate")})
    run.note(result=f"{scheme} is done")
"""


def notebook(folder: Path, *cells: str) -> Path:
    parameters = nbformat.v4.new_code_cell(PARAMETERS)
    parameters.metadata["tags"] = ["parameters"]
    book = nbformat.v4.new_notebook(
        cells=[parameters, *map(nbformat.v4.new_code_cell, cells or (WORK,))],
        metadata={
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}
        },
    )
    path = folder / "work.ipynb"
    nbformat.write(book, path)
    return path


def begun(folder: Path) -> dict[str, int]:
    """How often the kernel of each cell was begun, by scheme."""
    return {
        path.parent.name.split(",")[0].removeprefix("scheme="): len(path.read_text().splitlines())
        for path in sorted(folder.glob("cells/*/begun"))
    }


# --- which cells ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("film,gate", ["film", "gate"]),
        ("0, 1,2", [0, 1, 2]),
        ("[0,1],[2]", [[0, 1], [2]]),
        ('"a, b",c', ["a, b", "c"]),
        ('{"steps": 5, "rate": [1, 2]},None,true', [{"steps": 5, "rate": [1, 2]}, None, True]),
        ("runs/x.zarr", ["runs/x.zarr"]),
    ],
)
def test_values_are_told_apart_at_commas_outside_brackets_and_quotes(text, values):
    assert sweep.values_of(text) == values


def test_a_table_gives_a_run_per_row_and_empty_fields_keep_the_default(tmp_path):
    file = tmp_path / "runs.csv"
    file.write_text('scheme,seeds,seconds\nfilm,"[0,1]",\n\ngate,2,0.5\n')
    rows = sweep.read_rows(file)
    assert rows == [
        {"scheme": "film", "seeds": [0, 1]},
        {"scheme": "gate", "seeds": 2, "seconds": 0.5},
    ]
    assert len(sweep.grid({"fail": [True, False]}, rows)) == 4
    with pytest.raises(BadRequest, match="scheme is given twice"):
        sweep.grid({"scheme": ["film"]}, rows)
    file.write_text("scheme,seeds\nfilm,0,1\n")
    with pytest.raises(BadRequest, match="line 2: 3 values for the 2 parameters"):
        sweep.read_rows(file)
    (tmp_path / "runs.json").write_text('[{"scheme": "film"}]')
    assert sweep.read_rows(tmp_path / "runs.json") == [{"scheme": "film"}]


def test_a_wrong_name_or_a_cell_that_stands_twice_stops_the_sweep_before_it_begins(tmp_path):
    book = notebook(tmp_path)
    with pytest.raises(BadParameters, match=r"'schem'.*Did you mean 'scheme'"):
        sweep.sweep(book, [{"scheme": "a"}, {"schem": "b"}], tmp_path / "out")
    with pytest.raises(BadRequest, match="scheme=a stands there twice"):
        sweep.sweep(book, [{"scheme": "a"}, {"scheme": "a"}], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def same_code(monkeypatch):
    """The notebook alone counts as code: somebody may be at work on these sources."""
    monkeypatch.setattr(sweep, "code_version", lambda book: hash(Path(book).read_bytes()))


# --- running --------------------------------------------------------------------------------------


@pytest.mark.notebook
def test_failed_cells_are_kept_while_others_go_on_and_finished_ones_are_not_run_again(
    tmp_path, same_code
):
    book, out, told = notebook(tmp_path), tmp_path / "out", []
    cells = [{"scheme": "bad", "fail": True}, {"scheme": "good", "fail": False}]
    table = sweep.sweep(book, cells, out, retries=1, say=told.append)
    assert table["status"].tolist() == ["failed", "complete"]
    assert table["error"].tolist() == ["ValueError: no luck with bad", ""]
    assert begun(out) == {"bad": 2, "good": 1}, "one retry"
    kept = (out / table["notebook"][0]).read_text()
    assert "no luck with bad" in kept and "ValueError" in kept
    assert any("good" in line and "complete" in line for line in told)

    (bad,) = out.glob("cells/scheme=bad*")
    (bad / "mended").touch()
    assert sweep.sweep(book, cells, out, say=told.append)["status"].tolist() == ["complete"] * 2
    assert begun(out) == {"bad": 3, "good": 1}
    assert (bad / "begun").read_text().split()[::2] == ["False", "True", "True"], "from its store"

    notebook(tmp_path, WORK + "\nother = 1")
    sweep.sweep(book, cells[1:], out, say=told.append)
    assert begun(out) == {"bad": 3, "good": 2}, "another notebook is other code"
    assert any("other code" in line for line in told)


@pytest.mark.notebook
def test_the_results_of_all_stores_stand_in_one_table_with_tests_over_seeds(
    tmp_path, same_code, capsys
):
    book, out = notebook(tmp_path, STORE), tmp_path / "out"
    rows = [{"scheme": s, "seeds": [n]} for s in ("film", "gate") for n in (0, 1)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    with pytest.raises(SystemExit) as ended:
        cli.main(["sweep", str(book), "--table", str(tmp_path / "rows.json"), "-o", str(out)])
    assert ended.value.code == 0
    assert "4 complete" in capsys.readouterr().out
    table = pd.read_csv(out / "results.csv")
    np.testing.assert_allclose(table["EN"], [0.5, 10.5, 1.5, 11.5])
    assert table["result"].tolist() == ["film is done"] * 2 + ["gate is done"] * 2
    assert all((out / path / "zarr.json").is_file() for path in table["store"])
    tests = pd.read_csv(out / "significance.csv")
    (row,) = tests.to_dict("records")
    assert (row["first"], row["second"], row["seeds"]) == ("film", "gate", 2)
    assert (row["difference"], row["p"]) == (-1, 0.5), "two of four sign patterns"
    page = (out / "index.html").read_text()
    assert page.count("notebook.ipynb") == 4 and "scores.png" in page
    assert (out / "scores.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.notebook
def test_a_worker_that_is_killed_takes_its_kernel_along_and_its_cell_runs_elsewhere(tmp_path):
    """Two workers, each a process with a folder of its own; SIGKILL for the one with the cell."""
    distributed = pytest.importorskip("distributed")
    book, out = notebook(tmp_path), tmp_path / "out"
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, local_directory=str(tmp_path)
    ) as cluster, futures.ThreadPoolExecutor(1) as aside:  # fmt: skip
        cells = [{"scheme": "slow", "seconds": 600.0}]
        ending = aside.submit(
            sweep.sweep, book, cells, out, scheduler=cluster.scheduler_address, say=lambda _: None
        )
        first = wait_for(lambda: list(out.glob("cells/*/begun")))[0]
        kernel = int(first.read_text().split()[1])
        process = sweep.read_cell(out, first.parent.name)["process"]["pid"]
        os.kill(parent_of(process), signal.SIGKILL)
        wait_for(lambda: len(first.read_text().splitlines()) == 2)
        assert not alive(kernel), "nobody else writes where the second one does"
        (first.parent / "mended").touch()
        table = ending.result(timeout=400)
    assert table["status"].tolist() == ["complete"]
    assert table["attempts"].tolist() == [2]
    assert table["seconds (set)"].tolist() == [600], "beside the seconds that it took"
    assert table["seconds"].item() < 600


def test_the_code_of_a_sweep_is_the_notebook_and_the_files_of_host_and_plugins(tmp_path):
    book = notebook(tmp_path)
    before = sweep.code_version(book)
    assert notebook(tmp_path) and sweep.code_version(book) == before, "whatever ids cells have"
    assert sweep.code_version(notebook(tmp_path, "x = 1")) != before


@pytest.mark.notebook
def test_giving_up_a_sweep_stops_its_kernel_and_says_so(tmp_path, same_code):
    book, out = notebook(tmp_path), tmp_path / "out"

    def interrupt():
        wait_for(lambda: list(out.glob("cells/*/begun")))
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may ignore it
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            sweep.sweep(book, [{"seconds": 600.0}], out, say=lambda _: None)
    finally:
        signal.signal(signal.SIGINT, before)
    thread.join()
    (begun_file,) = out.glob("cells/*/begun")
    assert sweep.read_cell(out, begun_file.parent.name)["status"] == "stopped"
    assert not alive(int(begun_file.read_text().split()[1]))


def wait_for(found, seconds=400):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := found():
            return value
        time.sleep(0.1)
    pytest.fail("it did not come to that")


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_how_far_a_cell_is_comes_from_its_notebook_and_its_store(tmp_path):
    here = tmp_path / "cells" / "one"
    (here / "run.zarr").mkdir(parents=True)
    root = {"attributes": {"progress": "film, seed 0: step 3 of 9"}}
    (here / "run.zarr" / "zarr.json").write_text(json.dumps(root))
    cells = [{"cell_type": "code", "execution_count": n, "source": ""} for n in (1, 2, None)]
    (here / "notebook.ipynb").write_text(json.dumps({"cells": cells}))
    facts = {"status": "running", "parameters": {"store": str(here / "run.zarr")}}
    sweep._write(tmp_path, "one", facts)
    assert sweep._line(tmp_path, "one") == "notebook cell 2 of 3; film, seed 0: step 3 of 9"
