import pytest

from fusionkit.errors import BadRequest
from fusionkit.recipe import Recipe, Stage


def a_task(**_):
    """Stands for a plugin's task."""


@pytest.fixture
def recipe():
    return Recipe(
        name="own",
        network={"name": "compact", "options": {"body": 32}},
        modulation="film",
        encoder="tiny-clip",
        losses=("pixel-l1",),
        weights={"pixel": 1.0},
        stages=(Stage(steps=10), Stage(name="second", steps=20)),
        task=a_task,
    )


def test_a_bare_name_is_a_part_without_options(recipe):
    assert recipe.modulation.name == "film"
    assert recipe.modulation.options == {}
    assert recipe.network.options == {"body": 32}


def test_an_override_changes_a_copy_and_keeps_the_callables(recipe):
    changed = recipe.with_overrides({"stages.1.steps": 5, "network.options.body": 16})
    assert [s.steps for s in changed.stages] == [10, 5]
    assert changed.network.options == {"body": 16}
    assert changed.task is a_task
    assert [s.steps for s in recipe.stages] == [10, 20]


def test_a_stage_field_alone_is_set_in_every_stage(recipe):
    assert [s.steps for s in recipe.with_overrides({"steps": 7}).stages] == [7, 7]


def test_a_stage_is_found_by_its_name(recipe):
    changed = recipe.with_overrides({"stages.second.learning_rate": 0.5})
    assert changed.stages[1].learning_rate == 0.5


def test_weights_and_options_take_new_keys(recipe):
    changed = recipe.with_overrides({"weights.region": 0.2, "task_options.crop": 32})
    assert changed.weights == {"pixel": 1.0, "region": 0.2}
    assert changed.task_options == {"crop": 32}


def test_a_part_may_be_dropped(recipe):
    assert recipe.with_overrides({"modulation": None}).modulation is None


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("stage.0.steps", "stages"),
        ("stages.0.setps", "steps"),
        ("netwrok", "network"),
        ("stages.7.steps", "train"),
        ("modulatoin.options.x", "modulation"),
    ],
)
def test_a_misspelt_path_names_the_nearest(recipe, path, hint):
    with pytest.raises(BadRequest, match=hint):
        recipe.with_overrides({path: 1})


def test_a_value_of_the_wrong_kind_is_refused_with_its_place(recipe):
    with pytest.raises(BadRequest, match=r"stages\.0\.steps.*'many'"):
        recipe.with_overrides({"stages.0.steps": "many"})


def test_zero_steps_are_refused(recipe):
    with pytest.raises(BadRequest, match="greater than or equal to 1"):
        recipe.with_overrides({"steps": 0})


def test_the_description_is_plain_data_and_names_the_task(recipe):
    described = recipe.describe()
    assert described["task"] == f"{__name__}:a_task"
    assert described["stages"][1]["steps"] == 20
    again = {k: v for k, v in described.items() if k in Recipe.model_fields and k != "task"}
    assert Recipe(**again, task=a_task) == recipe
