"""The default task: what it asks for, what it compares with, and that only the words tell."""

import pytest
import torch
from fusionkit_standard.control import NAMES, ControlTask, mentioned
from fusionkit_standard.datasets import Scenes

from fusionkit import training
from fusionkit.errors import BadRequest
from fusionkit.methods import Method
from fusionkit.registry import Registry
from fusionkit.testing import TinyEncoder, tiny_pairs


@pytest.fixture(scope="module")
def registry():
    return Registry.from_environment()


@pytest.fixture(scope="module")
def scenes():
    return list(Scenes(count=12, size=96))


@pytest.fixture(scope="module")
def task(registry, scenes):
    return ControlTask(pairs=scenes, registry=registry, crop=48)


def draw(task, count, seed=0):
    return task.sample(count, torch.Generator().manual_seed(seed))


def test_a_sample_is_a_function_of_the_generator(task):
    a, b, c = draw(task, 8, 1), draw(task, 8, 1), draw(task, 8, 2)
    assert a.prompts == b.prompts
    assert torch.equal(a.visible, b.visible)
    assert torch.equal(a.targets["fused"], b.targets["fused"])
    assert a.prompts != c.prompts


def test_both_prompts_of_a_scene_are_given_the_same_pictures(task):
    batch = draw(task, 32)
    assert batch.visible.shape == (32, 3, 48, 48)
    assert torch.equal(batch.visible[0::2], batch.visible[1::2])
    assert torch.equal(batch.infrared[0::2], batch.infrared[1::2])
    assert all(a != b for a, b in zip(batch.prompts[0::2], batch.prompts[1::2], strict=True))


def test_only_the_words_tell_which_picture_is_wanted(task):
    """Prompts are drawn in random order, so the first row is no clue."""
    batch = draw(task, 200)
    targets = batch.targets["fused"]
    differ = (targets[0::2] - targets[1::2]).abs().flatten(1).amax(1) > 1e-3
    assert differ.float().mean() > 0.8


def test_a_highlighted_thing_is_the_brighter_source_and_the_rest_plain_mixture(task, scenes):
    batch = draw(task, 64)
    mixture = task.mixture(batch.visible, batch.infrared)
    highlight = [i for i, damage in enumerate(batch.labels["damage"]) if not damage]
    mask, target = batch.targets["mask"][highlight], batch.targets["fused"][highlight]
    outside = (mask == 0).expand_as(target)
    torch.testing.assert_close(target[outside], mixture[highlight][outside])
    inside = (mask == 1).expand_as(target)
    brightest = torch.maximum(batch.visible, batch.infrared.expand(-1, 3, -1, -1))[highlight]
    torch.testing.assert_close(target[inside], (1.1 * brightest + 0.08).clamp(0, 1)[inside])


def test_the_asked_repair_wants_the_clean_mixture_and_others_the_damage(task):
    batch = draw(task, 120)
    mixture = task.mixture(batch.visible, batch.infrared)
    error = (batch.targets["fused"] - mixture).abs().flatten(1).mean(1)
    repair = [i for i, damage in enumerate(batch.labels["damage"]) if damage]
    assert len(repair) > 20
    asked = [i for i in repair if i % 2 == 0]
    assert all(error[i] > 1e-3 for i in asked)
    assert all(error[i + 1] < 1e-6 for i in asked)
    for i in asked:
        assert batch.prompts[i] in task.repairs[batch.labels["damage"][i]]
        assert batch.prompts[i + 1] not in task.repairs[batch.labels["damage"][i]]


def test_repair_needs_no_thing_and_highlighting_says_when_there_is_none(registry):
    one_thing = tiny_pairs(3, 64)
    with pytest.raises(BadRequest, match=r"no pair shows two things.*repair_share to 1"):
        draw(ControlTask(pairs=one_thing, registry=registry), 4)
    batch = draw(ControlTask(pairs=one_thing, registry=registry, repair_share=1), 4)
    assert all(batch.labels["damage"])


def test_pairs_smaller_than_the_crop_are_named(registry):
    with pytest.raises(BadRequest, match="'pair-0' is 24x32, smaller than the crop of 64"):
        ControlTask(pairs=tiny_pairs(1), registry=registry)


def test_without_masks_a_joint_encoder_is_needed(registry):
    from dataclasses import replace

    blind = [replace(p, masks={}) for p in tiny_pairs(2, 64)]
    with pytest.raises(BadRequest, match=r"no masks.*heat maps.*joint"):
        ControlTask(pairs=blind, registry=registry, encoder=object())


def test_photographs_take_their_questions_from_boxes(registry):
    from dataclasses import replace

    blind = [replace(p, masks={}, depth=None) for p in tiny_pairs(3, 64)]
    task = ControlTask(
        pairs=blind, registry=registry, encoder=TinyEncoder(), repair_share=1, crop=None
    )
    assert "haze" not in task.damages
    questions = list(task.questions(3, torch.Generator().manual_seed(0)))
    boxed = [q for q in questions if q.kind == "highlight"]
    assert sum(len(q.first) for q in boxed) == 3
    assert all(q.boxes for q in boxed)
    for q in boxed:
        assert set(q.first.prompts) == {"highlight the person"}
    mask = boxed[0].first.targets["mask"][0, 0]
    x0, y0, x1, y1 = (round(v) for v in blind[0].things[0].box)
    assert mask[y0 + 1 : y1 - 1, x0 + 1 : x1 - 1].min() == 1
    assert mask.mean() < 0.5


def test_a_pair_is_asked_one_question_of_each_kind(task):
    """Several questions about one pair are no independent evidence."""
    for count in (5, 200):
        questions = list(task.questions(count, torch.Generator().manual_seed(0)))
        for kind, pool in (("highlight", task.askable), ("repair", task.examples)):
            names = [name for q in questions if q.kind == kind for name in q.first.names]
            assert len(set(names)) == len(names) == min(count, len(pool))


def test_two_boxed_things_make_one_question_and_a_box_of_no_pixel_none(registry):
    from dataclasses import replace

    from fusionkit.protocols import Thing

    things = (
        Thing("person", (8.0, 8.0, 24.0, 40.0)),
        Thing("car", (30.0, 30.0, 60.0, 50.0)),
        Thing("bus", (10.2, 10.2, 10.4, 30.0)),
    )
    (pair,) = (replace(p, masks={}, depth=None, things=things) for p in tiny_pairs(1, 64))
    task = ControlTask(
        pairs=[pair], registry=registry, encoder=TinyEncoder(), repair_share=1, crop=None
    )
    (asked,) = (q for q in task.questions(9, torch.Generator()) if q.kind == "highlight")
    assert asked.first.prompts == ("highlight the person",)
    assert asked.second.prompts == ("highlight the car",)


def test_questions_are_whole_pictures_and_never_change_the_training_crop(task, scenes):
    questions = list(task.questions(6, torch.Generator().manual_seed(0)))
    assert {q.kind for q in questions} == {"highlight", "repair"}
    for q in questions:
        assert q.first.visible.shape[-2:] == scenes[0].visible.shape[-2:]
    assert draw(task, 2).visible.shape[-1] == 48


def test_descriptions_are_understood_by_name_and_synonym():
    assert mentioned("Two pedestrians wait; a lorry passes the houses.") == [
        "person", "truck", "building",
    ]  # fmt: skip
    assert mentioned("Nothing in particular.") == []
    assert set(mentioned(" ".join(NAMES))) == set(NAMES)


def test_the_words_get_through_on_a_short_budget(registry, scenes):
    """Ten seconds of training: far from the full result, and as far from chance."""
    recipe = registry.create("recipe", "control").with_overrides(
        {
            "steps": 60,
            "batch_size": 16,
            "stages.0.crop": 48,
            "learning_rate": 2e-3,
            "network.options.widths": [32, 64, 96],
            "task_options.repair_share": 1.0,
            "task_options.degradations": ["low-light", "over-exposure", "ir-stripes"],
        }
    )
    trained = training.train(recipe, scenes, registry=registry, device="cpu", encoder=TinyEncoder())
    task = training.build_task(trained.method, scenes, {"crop": None})
    from fusionkit import control

    questions = [
        q for seed in range(4) for q in task.questions(12, torch.Generator().manual_seed(seed))
    ]
    found = control.measure(trained.method, questions)
    assert found["repair_gain_db"].mean() > 0.5
    blind = training.train(
        recipe.with_overrides({"modulation": "none", "steps": 5}),
        scenes, registry=registry, device="cpu", encoder=TinyEncoder(),
    )  # fmt: skip
    again = control.measure(blind.method, task.questions(10, torch.Generator().manual_seed(1)))
    assert again["repair_gain_db"].abs().max() == 0


def test_the_guide_of_a_sample_is_cut_like_its_pictures(registry, scenes):
    encoder = TinyEncoder()
    recipe = registry.create("recipe", "control").with_overrides(
        {"guides": ["heatmap"], "network.options.guides": ["heatmap"], "stages.0.crop": 48}
    )
    method = Method(recipe, registry, encoder=encoder)
    task = training.build_task(method, scenes)
    batch = draw(task, 6)
    assert batch.guides["heatmap"].shape == (6, 1, 48, 48)
    assert batch.guides["heatmap"].min() >= 0 and batch.guides["heatmap"].max() <= 1
    with pytest.raises(ValueError, match=r"built to read the guides \['heatmap'\]"):
        method.network(method.with_text(batch.replace(guides={})))


def test_a_described_photograph_is_asked_by_its_description_too(registry):
    from dataclasses import replace

    class Everywhere(TinyEncoder):
        """Sees a person on the left and a car on the right of every picture."""

        def heatmap_grid(self, prompts, image):
            maps = torch.zeros(len(image), len(prompts), 8, 8)
            for column, prompt in enumerate(prompts):
                maps[:, column, :, :4] = float("person" in prompt)
                maps[:, column, :, 4:] += float("car" in prompt)
            return maps

    words = "A pedestrian waits."
    photographs = [
        replace(p, masks={}, depth=None, texts={"fused": words}) for p in tiny_pairs(2, 64)
    ]
    task = ControlTask(
        pairs=photographs, registry=registry, encoder=Everywhere(), repair_share=0, crop=32
    )
    assert words in task.prompts
    batch = draw(task, 80)
    rows = [i for i, prompt in enumerate(batch.prompts) if prompt == words]
    assert rows
    masks = batch.targets["mask"]
    assert any(masks[i].max() > 0 for i in rows)
    for i in rows:
        assert masks[i + 1].max() == 0, "the other prompt of the scene asks for plain fusion"
    assert task.prompts_for(0) == [words, "highlight the person"]
