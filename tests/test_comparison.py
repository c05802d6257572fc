"""Stored runs side by side: found, told apart, refused where they are not comparable, tested."""

import numpy as np
import pandas as pd
import pytest

import fusionkit as fk
from fusionkit import store
from fusionkit.errors import BadRequest
from fusionkit.statistics import interval_nested, paired_difference

PAIRS = [f"p{i}" for i in range(10)]
FACTS = {"EN": {"higher_is_better": True, "code": "en_u8"}, "CE": {"higher_is_better": False}}


def scored(path, level, *, seed=0, pairs=PAIRS, facts=FACTS, arms=("none", "film"), **parameters):
    """A run whose scores are a fixed pattern, shifted by ``level``."""
    parameters = {"modulation": "film", "dataset": "scenes", "image_size": 128, **parameters}
    with store.create_run(
        path, parameters={**parameters, "seeds": [seed]}, recipe={"network": "compact"},
        components={}, seed=[seed], device="cpu",
    ) as run:  # fmt: skip
        run.declare_pairs(pairs, 8, 10)
        run.declare_metrics(facts)
        for i, pair in enumerate(pairs):
            run.put_scores("score", pair, {name: i + level + 0.01 * seed for name in facts})
            run.put_scores("baseline", pair, {name: i for name in facts})
        run.put_image("vi", pairs[0], np.full((3, 8, 10), 0.5))
        run.put_image("ir", pairs[0], np.full((1, 8, 10), 0.5))
        run.put_image("fused", pairs[0], np.full((3, 8, 10), min(1.0, 0.1 + 0.1 * level)))
        run.declare_history(list(arms), [seed], [5, 10], ["total"])
        run.declare_control(list(arms), [seed], [f"q{i}" for i in range(6)])
        for arm in arms:
            run.put_history(arm, seed, 1, {"total": level})
            noise = np.random.default_rng(seed).normal(size=6)
            run.put_control(arm, seed, {"gain": noise + level * (arm == arms[-1])})
    return path


def test_methods_are_called_by_what_differs_and_compared_on_the_same_pairs(tmp_path):
    scored(tmp_path / "a.zarr", 0.0)
    scored(tmp_path / "sub" / "b.zarr", 1.0, modulation="gate")
    (tmp_path / "b.zarr.checkpoints").mkdir()
    found = fk.compare(tmp_path)
    assert found.methods == ["film", "gate"]
    table = found.table().set_index(["method", "metric"])
    assert table.loc[("film", "EN"), "mean"] == 4.5
    assert table.loc[("gate", "EN"), ["mean", "n", "rank"]].tolist() == [5.5, 10, 1]
    assert table.loc[("gate", "CE"), "rank"] == 2
    tests = found.tests().set_index("metric")
    expected = paired_difference(np.arange(10.0), np.arange(10.0) + 1)
    assert tests.loc["EN", ["difference", "p"]].tolist() == [-1, expected.p]
    assert (tests.loc["EN", "better"], tests.loc["CE", "better"]) == ("gate", "film")
    text = found.markdown()
    assert "**5.5000**" in text and "sign-flip" in text


def test_runs_that_differ_in_their_seeds_alone_are_one_method(tmp_path):
    for seed in (0, 1, 2):
        scored(tmp_path / f"film-{seed}.zarr", 0.0, seed=seed)
    scored(tmp_path / "gate.zarr", 1.0, modulation="gate")
    found = fk.compare([str(tmp_path / "film-*.zarr"), tmp_path / "gate.zarr"])
    assert found.methods == ["film", "gate"]
    assert len(found.runs["film"]) == 3
    assert fk.compare(store.open_run(tmp_path / "gate.zarr")).methods == ["gate"]
    assert found.scores.rows.set_index(["method", "name"]).loc[("film", "p2"), "EN"] == (
        pytest.approx(2.01)
    )
    assert "mean of 3 runs" in found.markdown()
    control = found.control().set_index(["method", "arm", "measure"]).loc[("film", "film", "gain")]
    values = np.stack([np.random.default_rng(seed).normal(size=6) for seed in (0, 1, 2)])
    expected = interval_nested(values)
    assert control[["mean", "low", "high"]].tolist() == pytest.approx(list(expected))
    assert (control["seeds"], control["n"]) == (3, 18)


def test_control_is_tested_between_the_arms_under_study(tmp_path):
    runs = {
        "weak": scored(tmp_path / "a.zarr", 0.0),
        "strong": scored(tmp_path / "b.zarr", 2.0, modulation="gate", arms=("none", "gate")),
    }
    (row,) = fk.compare(runs).control_tests().to_dict("records")
    assert (row["first"], row["second"], row["n"]) == ("weak", "strong", 6)
    assert row["difference"] == pytest.approx(-2)
    assert row["p"] == 2 / 2**6


def test_a_mapping_names_the_methods_and_baselines_can_stand_beside(tmp_path):
    path = scored(tmp_path / "a.zarr", 1.0)
    found = fk.compare({"mine": path}, variables=("score", "baseline"))
    assert found.scores.methods == ["mine", "mine, baseline"]
    (row,) = found.tests().query("metric == 'EN'").to_dict("records")
    assert (row["difference"], row["better"]) == (1, "mine")


def test_pairs_that_a_run_lacks_are_in_no_mean(tmp_path):
    scored(tmp_path / "a.zarr", 0.0)
    scored(tmp_path / "b.zarr", 0.0, modulation="gate", pairs=PAIRS[2:])
    table = fk.compare(tmp_path).table().set_index(["method", "metric"])
    assert table.loc[("film", "EN"), ["mean", "n", "left_out"]].tolist() == [5.5, 8, 2]


def test_scores_that_a_run_lacks_are_named_and_refused_when_asked_for(tmp_path):
    scored(tmp_path / "a.zarr", 0.0)
    scored(tmp_path / "b.zarr", 0.0, modulation="gate", facts={"EN": FACTS["EN"]})
    found = fk.compare(tmp_path)
    assert list(found.scores.metrics) == ["EN"]
    assert found.scores.unavailable == {"CE": "not in gate"}
    with pytest.raises(BadRequest, match=r"'CE'\. gate lack it"):
        fk.compare(tmp_path, metrics=["CE"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 64}, "not on the same pictures: image_size is 128 in .*64 in"),
        ({"dataset": "tno"}, "not on the same pictures: dataset"),
        ({"facts": {"EN": {"code": "en_f64"}}}, "two variants of a score"),
        ({"pairs": ["other"]}, "no pair that all"),
        ({"facts": {"SD": {}}}, "no score in common"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path, change, message):
    scored(tmp_path / "a.zarr", 0.0)
    scored(tmp_path / "b.zarr", 0.0, **{"modulation": "gate", **change})
    with pytest.raises(BadRequest, match=message):
        fk.compare(tmp_path)


def test_nothing_to_compare_is_said(tmp_path):
    with pytest.raises(BadRequest, match="is no stored run and holds none"):
        fk.compare(tmp_path)
    with pytest.raises(BadRequest, match="nothing is called"):
        fk.compare(str(tmp_path / "*.zarr"))
    with pytest.raises(store.StoreError, match="no run at"):
        fk.compare(tmp_path / "missing.zarr")
    empty = tmp_path / "empty.zarr"
    with store.create_run(empty, parameters={}, recipe={}, components={}, seed=0, device="cpu"):
        pass
    with pytest.raises(BadRequest, match="none of these runs has scores"):
        fk.compare(empty)
    scored(tmp_path / "a.zarr", 0.0)
    found = fk.compare({"a": tmp_path / "a.zarr", "empty": empty})
    assert found.scores.methods == ["a"]
    assert "- empty: not compared, the run has no 'score'" in found.markdown()


def test_plots_pictures_and_files_are_made(tmp_path):
    scored(tmp_path / "a.zarr", 0.0)
    scored(tmp_path / "b.zarr", 2.0, modulation="gate")
    found = fk.compare(tmp_path)
    assert len(found.plot().axes) == 2
    figure = found.pictures()
    shown = [axis.images[0].get_array() for axis in figure.axes]
    assert len(shown) == 4
    assert shown[2].mean() == pytest.approx(0.1) and shown[3].mean() == pytest.approx(0.3)
    lines = found.curves().axes[0].lines
    assert [line.get_label() for line in lines] == ["film", "gate"]
    assert lines[1].get_ydata()[-1] == 2.0
    with pytest.raises(BadRequest, match="Did you mean 'total'"):
        found.curves("totl")
    assert found.profile().axes
    written = found.write(tmp_path / "table.csv")
    assert {file.name for file in written} >= {"table.csv", "table.tests.csv", "table.tex"}
    assert len(pd.read_csv(tmp_path / "table.csv")) == 20
