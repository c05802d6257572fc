"""What a run is said to show: judged against chance, with the baseline beside it."""

import numpy as np
import pytest
import torch
import xarray as xr

from fusionkit.bench import bounded, control_table, verdict
from fusionkit.notebook import TrainParameters
from fusionkit.recipe import Part, Recipe, Stage


def tree(**arms):
    """A stored run's control group: ``named_right`` per arm, seed and scene."""
    values = np.array(list(arms.values()), dtype=float)
    dims = ("arm", "seed", "scene")
    group = xr.Dataset(
        {"named_right_scene": (dims, values), "named_right": (dims[:2], values.mean(-1))},
        coords={"arm": list(arms), "seed": list(range(values.shape[1]))},
    )
    return xr.DataTree.from_dict({"control": group})


def scenes(share, count=100, seeds=2):
    """Each scene right or wrong, this share of them right, the same in every seed."""
    return [[1.0] * round(share * count) + [0.0] * (count - round(share * count))] * seeds


def test_control_is_judged_against_chance_and_not_against_the_baseline():
    """Two schemes that both obey differ by nothing, yet the words matter in both."""
    both = tree(gate=scenes(0.9), film=scenes(0.9))
    said = verdict(both, "gate", "film", [0, 1])
    assert said.startswith("film: the text controls the result")
    assert "gate: 90%, difference +0.000" in said
    better_than_nothing = tree(worse=scenes(0.1), film=scenes(0.5))
    assert "is not seen to control" in verdict(better_than_nothing, "worse", "film", [0, 1])


def test_a_blind_network_is_not_seen_to_control_anything():
    blind = tree(none=[[0.5] * 50] * 2, film=scenes(0.54, 50))
    assert "film: the text is not seen to control" in verdict(blind, "none", "film", [0, 1])
    assert "none: the text is not seen to control" in verdict(blind, "film", "none", [0, 1])


def test_doing_the_opposite_is_said():
    assert "to the opposite" in verdict(
        tree(none=[[0.5] * 60] * 2, film=scenes(0.1, 60)), "none", "film", [0, 1]
    )


def test_seeds_that_disagree_widen_the_interval_of_the_verdict():
    """One seed obeys, the other is blind: scenes alone would look certain."""
    mixed = tree(none=[[0.5] * 80] * 2, film=[[1.0] * 80, [0.5] * 80])
    assert "75% [50%, 100%]" in verdict(mixed, "none", "film", [0, 1])


def test_the_table_has_a_row_per_arm_and_the_reference():
    table = control_table(
        tree(none=[[0.5] * 20] * 2, film=scenes(0.9, 20)), ["none", "film"], [0, 1]
    )
    assert table.loc["none", "named_right"] == "0.500 [0.500, 0.500]"
    assert table.loc["film", "named_right"].startswith("0.900 [0.")
    assert table.loc["chance", "named_right"] == "0.5"


def test_a_run_that_was_asked_nothing_has_an_empty_table():
    assert control_table(xr.DataTree(), ["method"], [0]).empty


@pytest.mark.parametrize("seeds", [[0], [0, 1]])
def test_the_number_of_seeds_is_free(seeds):
    assert "controls" in verdict(tree(none=scenes(0.5), film=scenes(0.95)), "none", "film", seeds)


def protocol(**first):
    stages = Stage(**{"steps": 30_000, "batch_size": 8} | first), Stage(steps=20, batch_size=2)
    return Recipe(name="mine", network=Part(name="any"), stages=stages, remark="Ours.")


def numbers(recipe):
    return [(stage.steps, stage.batch_size) for stage in recipe.stages]


def test_a_long_protocol_is_cut_on_a_cpu_and_says_so(capsys):
    short = bounded(protocol(accumulate=8), TrainParameters(device="cpu"))
    assert numbers(short) == [(40, 4), (20, 2)]
    assert [stage.accumulate for stage in short.stages] == [4, 1]  # still one by one
    assert "40 x 4, 20 x 2 samples in place of its protocol's 30000 x 8, 20 x 2" in short.remark
    assert short.remark.startswith("Ours.") and short.remark[5:] in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"steps": 5}, [(5, 8), (5, 2)]),
        ({"steps": 5, "batch_size": 3}, [(5, 3), (5, 3)]),
        ({"batch_size": 3}, [(40, 3), (20, 3)]),
        ({"overrides": {"steps": 40_000}}, [(40_000, 8), (40_000, 2)]),
        ({"overrides": {"stages.1.steps": 7}}, [(30_000, 8), (7, 2)]),
        ({"overrides": {"steps": 9}, "steps": 6}, [(6, 8), (6, 2)]),
    ],
)
def test_steps_that_are_given_are_taken_as_they_are(given, expected):
    assert numbers(bounded(protocol(), TrainParameters(device="cpu", **given))) == expected


def test_a_short_protocol_or_another_device_keeps_its_numbers(monkeypatch):
    assert bounded(protocol(steps=450), TrainParameters(device="cpu")) == protocol(steps=450)
    monkeypatch.setattr("fusionkit.devices.pick_device", lambda name: torch.device("cuda"))
    assert bounded(protocol(), TrainParameters()) == protocol()
