"""The notebooks, executed: by papermill with small parameters, under nbval, killed and resumed.

Numbers are read from the stores, never from the executed notebooks.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import papermill
import pytest

import fusionkit as fk
from fusionkit import store
from fusionkit.bench import compare_recipes
from fusionkit.errors import BadRequest
from fusionkit.notebook import CompareParameters, launch_environment

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
SMALL = {"steps": 12, "train_pairs": 12, "test_pairs": 6, "questions": 6, "shown": 2}
TRAIN_SMALL = {k: v for k, v in SMALL.items() if k != "steps"} | {"overrides": {"steps": 12}}
COMPARE_SMALL = SMALL | {"metrics": ["EN", "SD"]}
INSTRUCT_SMALL = {"steps": 8, "train_pairs": 4, "overrides": {"refine_options.max_steps": 3}}
ADAPT_SMALL = {
    "image_size": 96, "train_pairs": 4, "test_pairs": 2, "encoder_steps": 1, "steps": 2,
    "batch_size": 4, "questions": 2, "shown": 1, "metrics": ["EN"],
}  # fmt: skip
DEGRADE_SMALL = {"degradations": ["haze+ir-noise", "jpeg"], "pairs": 2, "image_size": 64}

pytestmark = pytest.mark.notebook


def run(name, out, **parameters):
    """Execute a notebook in its own kernel; returns the executed file."""
    papermill.execute_notebook(
        str(NOTEBOOKS / f"{name}.ipynb"),
        str(out),
        parameters=parameters,
        start_timeout=300,
        progress_bar=False,
        cwd=str(out.parent),
    )
    return out


def command(name, out, **parameters):
    given = [word for key, value in parameters.items() for word in ("-p", key, str(value))]
    return [
        sys.executable, "-m", "papermill", str(NOTEBOOKS / f"{name}.ipynb"), str(out),
        *given, "--no-progress-bar", "--start-timeout", "300",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def main_job(tmp_path_factory):
    """The main job on a shortened budget; the other tests look at it."""
    folder = tmp_path_factory.mktemp("main")
    path = str(folder / "main.zarr")
    out = run(
        "ablation", folder / "main.ipynb", store=path, steps=240, train_pairs=128,
        test_pairs=64, questions=64, shown=3,
    )  # fmt: skip
    return out, path


def test_the_words_control_the_picture_and_the_baseline_is_at_chance(main_job):
    tree = store.open_run(main_job[1])
    assert tree.attrs["status"] == "complete"
    control = tree["control"]
    assert control["named_right"].sel(arm="none").item() == 0.5
    assert control["gain"].sel(arm="none").item() == 0
    assert control["repair_gain_db"].sel(arm="none").item() == 0
    assert control["named_right"].sel(arm="film").item() > 0.62
    assert control["gain"].sel(arm="film").item() > 0.08
    assert control["repair_gain_db"].sel(arm="film").item() > 0.8
    assert control["named_right_scene"].sizes["scene"] == 64
    assert set(control["scene"].values) == set(tree.attrs["pairs"])


def test_everything_the_contract_names_is_in_the_store(main_job):
    tree = store.open_run(main_job[1])
    assert {"images", "scores", "history", "control"} <= set(tree.children)
    assert {"ir", "vi", "fused", "fused_baseline", "fused_other"} <= set(tree["images"].data_vars)
    assert tree["images"]["fused"].dims == ("pair", "band", "y", "x")
    assert any(name.startswith("points.") for name in tree["features"].children)
    assert tree["heatmaps"]["heatmap"]["maps"].dims == ("pair", "prompt", "y", "x")
    assert tree["scores"]["score"].dims == ("pair", "metric")
    assert np.isfinite(tree["scores"]["score"].sel(metric="EN")).all()
    assert tree["history"]["value"].dims == ("arm", "seed", "step", "term")
    losses = tree["history"]["value"].sel(arm="film", seed=0, term="total").values
    assert losses[-1] < losses[0]
    for key in (
        "parameters",
        "recipe",
        "components",
        "packages",
        "seed",
        "device",
        "started",
        "ended",
    ):
        assert key in tree.attrs
    assert tree.attrs["components"]["modulation:film"]["plugin"] == "standard"


def test_the_two_prompts_of_a_shown_pair_differ_and_so_do_the_pictures(main_job):
    pair = store.kept_pairs(store.open_run(main_job[1]))[0]
    _, prompts = store.read_heatmaps(main_job[1], "heatmap", pair)
    assert prompts[0] != prompts[1]
    first, second = (store.read_image(main_job[1], v, pair) for v in ("fused", "fused_other"))
    assert np.abs(first - second).max() > 0.02


def test_inspect_shows_the_run(main_job, tmp_path):
    out = run("inspect", tmp_path / "inspect.ipynb", store=main_job[1])
    assert "image/png" in out.read_text(encoding="utf-8")


def test_an_exported_page_shows_pictures_without_a_network(main_job, tmp_path):
    """Embedded pictures only: nothing to fetch, no empty boxes where a widget was."""
    subprocess.run(
        [sys.executable, "-m", "nbconvert", "--to", "html", str(main_job[0]),
         "--output-dir", str(tmp_path), "--output", "page"],
        check=True, capture_output=True,
    )  # fmt: skip
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64") >= 3
    assert "application/vnd.jupyter.widget-view+json" not in page


def test_info_tells_the_result_and_how_to_repeat_it(main_job):
    facts = store.run_info(main_job[1])
    assert facts["status"] == "complete"
    assert "the text controls the result" in facts["result"]
    assert facts["command"].startswith("papermill") and "steps 240" in facts["command"]


def test_train_leaves_weights_that_fuse_files_of_any_size(tmp_path):
    from PIL import Image

    path = str(tmp_path / "own.zarr")
    run("train", tmp_path / "train.ipynb", store=path, **TRAIN_SMALL)
    weights = Path(f"{path}.checkpoints/control-seed0.pt")
    assert weights.is_file()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (45, 61), dtype=np.uint8)).save(tmp_path / "ir.png")
    Image.fromarray(rng.integers(0, 255, (45, 61, 3), dtype=np.uint8)).save(tmp_path / "vi.png")
    subprocess.run(
        [sys.executable, "-m", "fusionkit", "fuse", "ir.png", "vi.png", "-o", "out.png",
         "--checkpoint", str(weights), "--text", "highlight the person"],
        check=True, cwd=tmp_path,
    )  # fmt: skip
    with Image.open(tmp_path / "out.png") as picture:
        assert (picture.size, picture.mode) == ((61, 45), "RGB")


def test_evaluate_scores_folders_side_by_side_and_an_example_without_any(tmp_path):
    out = run("evaluate", tmp_path / "example.ipynb", metrics="EN,VIF,SCD")
    assert out.read_text(encoding="utf-8").count('"image/png"') == 3
    (table,) = (tmp_path / "runs").glob("evaluate-*.summary.csv")
    example = pd.read_csv(table).set_index(["method", "metric"])
    assert example.loc["average", "EN"]["n"] == 12
    assert (example["preset"] == "standard").all() and example["gray"].str.contains("0.299").all()
    assert {"average", "maximum", "contrast"} == set(example.index.get_level_values("method"))

    pictures = tmp_path / "runs" / "evaluate-example"
    (pictures / "maximum" / "scene-100003.png").write_bytes(b"damaged")
    out = run(
        "evaluate", tmp_path / "own.ipynb", ir=str(pictures / "ir"), vi=str(pictures / "vi"),
        fused=[str(pictures / "average"), str(pictures / "maximum")], metrics=["EN", "SSIM"],
        variant="cddfuse", table=str(tmp_path / "own.csv"),
    )  # fmt: skip
    own = pd.read_csv(tmp_path / "own.summary.csv").set_index(["method", "metric"])
    assert own.loc["average", "SSIM"][["code", "n", "left_out"]].tolist() == [
        "ssim_u7_L2_sum", 11, 1,
    ]  # fmt: skip
    assert "unreadable: scene-100003 of maximum" in (tmp_path / "own.md").read_text()
    assert "scene-100003" in out.read_text(encoding="utf-8")


def test_compare_sets_recipes_side_by_side_and_given_weights_score_as_they_did(tmp_path):
    runs = tmp_path / "runs"
    given = {**COMPARE_SMALL, "recipes": ["control", "occo-small"], "store": str(runs)}
    out = run("compare", tmp_path / "compare.ipynb", **given)
    assert out.read_text(encoding="utf-8").count('"image/png"') == 4
    tests = pd.read_csv(runs / "compare.tests.csv")
    assert tests[["first", "second", "n"]].values.tolist() == [["control", "occo-small", 6]] * 2
    found = fk.compare(runs)
    assert found.methods == ["control", "occo-small"]
    assert set(found.control()["method"]) == {"control"}  # the other reads no prompt
    assert all(t.attrs["status"] == "complete" for trees in found.runs.values() for t in trees)

    weights = str(runs / "control.zarr.checkpoints" / "control-seed0.pt")
    again = {"recipes": ["control"], "checkpoints": {"control": weights}}
    again |= {"store": str(tmp_path / "again")}
    (path,) = compare_recipes(CompareParameters(**{**COMPARE_SMALL, **again})).values()
    assert not Path(f"{path}.checkpoints").exists(), "nothing is trained"
    assert store.run_info(path)["parameters"]["store"] == again["store"]
    first, second = (store.open_run(p)["scores"]["score"] for p in (runs / "control.zarr", path))
    np.testing.assert_array_equal(first.values, second.values)
    before = store.run_info(path)["started"]
    compare_recipes(CompareParameters(**{**COMPARE_SMALL, **again}))
    assert (store.run_info(path)["started"], store.run_info(path)["status"]) == (before, "complete")
    with pytest.raises(BadRequest, match="Did you mean 'control'"):
        compare_recipes(CompareParameters(checkpoints={"contrl": weights}))


def test_an_instruction_is_followed_edit_by_edit_and_kept(tmp_path):
    path = str(tmp_path / "instruct.zarr")
    out = run("instruct", tmp_path / "instruct.ipynb", store=path, **INSTRUCT_SMALL)
    assert out.read_text(encoding="utf-8").count('"image/png"') == 3
    tree = store.open_run(path)
    assert tree.attrs["status"] == "complete"
    (pair,) = store.kept_pairs(tree)
    maps, edits = store.read_heatmaps(path, "regions", pair)
    assert edits == [
        "edit1.texture.background", "edit2.salient.person-on-the-left", "edit3.denoise.everything",
    ]  # fmt: skip
    assert (maps[2] == 1).all() and 0 < maps[1].mean() < maps[0].mean() < 1
    plain, asked = (store.read_image(path, name, pair) for name in ("fused_plain", "fused"))
    assert np.abs(plain - asked).max() > 0.02


def test_a_typo_stops_the_run_with_the_nearest_name(tmp_path):
    ended = subprocess.run(
        command("ablation", tmp_path / "out.ipynb", modulaton="film"),
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 1
    assert "modulation" in ended.stderr


def test_a_killed_kernel_resumes_to_the_result_of_an_undisturbed_run(tmp_path):
    """SIGKILL in the middle of training, as when memory runs out; then the same command again."""
    parameters = SMALL | {"steps": 120, "batch_size": 4, "baseline": "none", "shown": 1}
    parameters["metrics"] = "EN"
    whole = str(tmp_path / "whole.zarr")
    run("ablation", tmp_path / "whole.ipynb", store=whole, **parameters)

    killed = str(tmp_path / "killed.zarr")
    launcher = subprocess.Popen(
        command("ablation", tmp_path / "killed.ipynb", store=killed, **parameters),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        env={**os.environ, **launch_environment()},
    )  # fmt: skip
    deadline = time.monotonic() + 240
    checkpoints = Path(f"{killed}.checkpoints")
    while not list(checkpoints.glob("none-*.pt")) and time.monotonic() < deadline:
        assert launcher.poll() is None, "it ended before it had begun to learn"
        time.sleep(0.05)
    time.sleep(0.3)
    os.killpg(launcher.pid, signal.SIGKILL)
    launcher.wait()
    _kill_kernels_of(killed)
    assert store.run_info(killed)["status"] != "complete"

    run("ablation", tmp_path / "again.ipynb", store=killed, **parameters)
    assert store.run_info(killed)["status"] == "complete"
    a, b = store.open_run(whole), store.open_run(killed)
    for name in ("gain_scene", "named_right_scene", "repair_gain_db_scene"):
        np.testing.assert_array_equal(a["control"][name].values, b["control"][name].values)
    np.testing.assert_array_equal(a["history"]["value"].values, b["history"]["value"].values)


def _kill_kernels_of(path):
    """Kernels run in a session of their own and would go on without their launcher."""
    root = json.loads((Path(path) / "zarr.json").read_text(encoding="utf-8"))
    for session in root["attributes"]["sessions"]:
        if "ended" not in session:
            try:
                os.kill(session["pid"], signal.SIGKILL)
            except ProcessLookupError:
                continue
    time.sleep(0.5)


def test_adapt_leaves_an_encoder_and_a_network_that_fuse_and_says_what_they_add(tmp_path):
    folder = tmp_path / "own"
    out = run("adapt", tmp_path / "adapt.ipynb", output=str(folder), **ADAPT_SMALL)
    assert "to 4 pairs of 'scenes' without labels" in out.read_text(encoding="utf-8")
    assert store.run_info(str(folder / "run.zarr"))["status"] == "complete"
    table = pd.read_csv(folder / "table.csv", index_col=0)
    assert {"before", "after", "difference", "low", "high"} <= set(table.columns)
    assert any("gain dB" in name for name in table.index)
    method = fk.load_method("words", folder / "network.pt", device="cpu")
    assert method.recipe.encoder.options["weights"] == str(folder / "encoder.safetensors")
    shipped = fk.load_method("words", device="cpu").encoder.towers.state_dict()
    adapted = method.encoder.towers.state_dict()
    assert any(not (shipped[name] == adapted[name]).all() for name in shipped)


def test_degrade_shows_damages_and_writes_a_set_that_is_read_again(tmp_path):
    from fusionkit.registry import Registry

    out = run("degrade", tmp_path / "d.ipynb", output=str(tmp_path / "set"), **DEGRADE_SMALL)
    assert "image/png" in out.read_text(encoding="utf-8")
    pairs = Registry.from_environment().create("dataset", "ems", root=tmp_path / "set")
    assert {pair.task for pair in pairs} == {"haze_ir_noise", "jpeg"} and len(pairs) == 4
    assert all(len(pair.prompts) >= 10 for pair in pairs)


def test_photographs_are_trained_scored_and_stored(data_root, tmp_path):
    if not (data_root / "roadscene").is_dir():
        pytest.skip(f"no roadscene under {data_root}")
    path = str(tmp_path / "real.zarr")
    run(
        "ablation", tmp_path / "real.ipynb", store=path, dataset="roadscene",
        data_root=str(data_root / "roadscene"), **SMALL,
    )  # fmt: skip
    tree = store.open_run(path)
    assert tree.attrs["status"] == "complete"
    assert "raised" in tree["control"].data_vars
    assert tree["control"]["raised"].sel(arm="none").item() == 0.5
    images = tree["images"]
    sides = np.concatenate([images[name].values for name in ("height", "width")])
    assert sides.min() == 128
    _, prompts = store.read_heatmaps(path, "heatmap", store.kept_pairs(tree)[0])
    assert len(prompts[0].split()) > 8, "the pair's own description comes first"


def test_nbval_runs_notebooks(main_job, tmp_path):
    """With small numbers in place of the defaults; nbval has no parameters of its own.

    The main job, the one over its result, and the one that no other test runs; papermill runs the
    others above.
    """
    small = {
        "ablation": SMALL | {"store": str(tmp_path / "a.zarr"), "guides": ["heatmap"]},
        "inspect": {"store": main_job[1]},
        "plugin": {"steps": 4, "train_pairs": 8, "questions": 4},
    }
    for name in small:
        source = NOTEBOOKS / f"{name}.ipynb"
        notebook = json.loads(source.read_text(encoding="utf-8"))
        for cell in notebook["cells"]:
            if "parameters" in cell["metadata"].get("tags", []):
                lines = "".join(cell["source"]).splitlines()
                given = small[name]
                cell["source"] = "\n".join(
                    f"{key} = {given[key]!r}" if (key := line.split(" =")[0]) in given else line
                    for line in lines
                )
        (tmp_path / source.name).write_text(json.dumps(notebook), encoding="utf-8")
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval-lax",
         "--nbval-current-env", "--nbval-kernel-startup-timeout=300", "--nbval-cell-timeout=300",
         "--rootdir", str(tmp_path), "-c", os.devnull, str(tmp_path)],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout[-3000:]
    arms = store.open_run(str(tmp_path / "a.zarr"))["control"]["arm"].values.tolist()
    assert arms == ["none", "film", "none+heatmap", "film+heatmap"]
