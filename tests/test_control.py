"""Measures of text control, against cases worked by hand."""

import math

import pytest
import torch

from fusionkit import control
from fusionkit.batch import Batch, Fused
from fusionkit.control import Question


@pytest.fixture
def scene():
    """Two things side by side; each prompt wants its own to be brighter by 0.4."""
    base = torch.full((1, 3, 4, 8), 0.3)
    left, right = torch.zeros(1, 1, 4, 8), torch.zeros(1, 1, 4, 8)
    left[..., 1:3, 1:3] = 1
    right[..., 1:3, 5:7] = 1
    return base, left, right, base + 0.4 * left, base + 0.4 * right


def test_doing_exactly_what_was_asked_is_perfect(scene):
    _, _, _, a, b = scene
    values = control.highlight_measures(a, b, a, b)
    assert {k: v.item() for k, v in values.items()} == pytest.approx(
        {"gain": 1.0, "cosine": 1.0, "named_right": 1.0}
    )


def test_half_the_change_in_the_right_place_is_half_the_gain_at_full_cosine(scene):
    base, _, _, a, b = scene
    values = control.highlight_measures((base + a) / 2, (base + b) / 2, a, b)
    assert values["gain"].item() == pytest.approx(0.5)
    assert values["cosine"].item() == pytest.approx(1.0)


def test_a_network_that_cannot_read_scores_chance(scene):
    base, left, right, a, b = scene
    values = control.highlight_measures(base, base, a, b)
    assert {k: v.item() for k, v in values.items()} == {
        "gain": 0.0,
        "cosine": 0.0,
        "named_right": 0.5,
    }
    named = torch.maximum(left, right)
    assert control.selectivity(base, base, named).item() == control.CHANCE["selectivity"]
    assert control.raised(base, base, left).item() == control.CHANCE["raised"]
    assert control.repair_measures(base, base, a, a)["repair_gain_db"].item() == 0


def test_always_one_picture_is_right_for_one_of_two_prompts(scene):
    _, _, _, a, b = scene
    assert control.highlight_measures(a, a, a, b)["named_right"].item() == 0.5


def test_the_wrong_thing_is_wrong_on_every_count(scene):
    _, _, _, a, b = scene
    values = control.highlight_measures(b, a, a, b)
    assert {k: v.item() for k, v in values.items()} == pytest.approx(
        {"gain": -1.0, "cosine": -1.0, "named_right": 0.0}
    )


def test_selectivity_compares_change_inside_with_change_outside(scene):
    base, left, right, *_ = scene
    named = torch.maximum(left, right)
    first = base + 0.2 * named + 0.05 * (1 - named)
    assert control.selectivity(first, base, named).item() == pytest.approx(4.0, rel=1e-5)


def test_repair_is_counted_in_decibels_against_the_clean_mixture():
    clean = torch.full((1, 3, 4, 4), 0.5)
    values = control.repair_measures(clean + 0.01, clean + 0.1, clean, clean + 0.05)
    assert values["repair_gain_db"].item() == pytest.approx(20.0, abs=1e-3)
    assert values["repair_net_db"].item() == pytest.approx(20 * math.log10(5), abs=1e-3)


def test_raised_looks_at_the_surroundings_not_at_the_whole_picture(scene):
    base, left, *_ = scene
    brighter_far_away = base.clone()
    brighter_far_away[..., 6:] += 0.3
    assert control.raised(base + 0.1 * left, base, left).item() == 1.0
    assert control.raised(brighter_far_away + 0.1 * left, base, left).item() == 1.0
    assert control.raised(base - 0.1 * left, base, left).item() == 0.0


def test_raised_without_a_mask_is_undefined_not_zero(scene):
    base, left, *_ = scene
    assert math.isnan(control.raised(base, base, torch.zeros_like(left)).item())


def test_two_prompts_that_ask_for_the_same_are_refused(scene):
    base, *_ = scene
    with pytest.raises(ValueError, match="same picture"):
        control.highlight_measures(base, base, base, base)


def test_measure_runs_both_prompts_and_keeps_every_scene(scene):
    base, left, right, a, b = scene

    def obey(batch):
        return Fused(image=torch.where(torch.tensor(batch.prompts[0] == "left"), a, b))

    def ask(prompt, target, mask):
        return Batch(
            visible=base,
            infrared=base[:, :1],
            prompts=(prompt,),
            targets={"fused": target, "mask": mask},
        )

    question = Question("highlight", ask("left", a, left), ask("right", b, right))
    repair = Question("repair", ask("left", a, left), ask("right", b, right), unrepaired=b)
    found = control.measure(obey, [question, question, repair])
    assert found["named_right"].tolist() == [1.0, 1.0]
    assert found["repair_net_db"].shape == (1,)
    assert "raised" not in found


def test_a_measured_scene_is_called_as_its_pair():
    def question(kind, *names):
        batch = Batch(torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 4, 4), names=names)
        return Question(kind, batch, batch)

    asked = [question("highlight", "a", "b"), question("highlight", "b", "c")]
    names = control.scenes([*asked, question("repair", "c", "a"), question("repair")])
    assert names["gain"] == ["a", "b", "b#2", "c"]
    assert names["repair_net_db"] == ["c", "a", "2", "3"]
