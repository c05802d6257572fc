"""The contract of a recipe."""

import json

import pytest

from fusionkit.registry import Registry
from fusionkit.testing.contract import Contract


class RecipeContract(Contract):
    """``factory()`` returns a :class:`~fusionkit.recipe.Recipe` whose parts can be had."""

    test_says_whose_idea_it_is = None  # `paper` does, and is empty for one's own

    @pytest.fixture
    def offered(self) -> Registry:
        """Where the parts come from."""
        return Registry.from_environment()

    def test_is_plain_data_but_for_its_callables(self):
        recipe = self.build()
        assert json.loads(json.dumps(recipe.describe()))["name"] == recipe.name

    def test_every_part_it_names_is_offered(self, offered):
        recipe = self.build()
        parts = {
            "network": [recipe.network],
            "modulation": [recipe.modulation],
            "encoder": [recipe.encoder],
            "guide": recipe.guides,
            "loss": recipe.losses,
        }
        for kind, named in parts.items():
            for part in named:
                if part is not None:
                    assert offered.entry(kind, part.name)

    def test_takes_the_short_overrides(self):
        changed = self.build().with_overrides({"steps": 3, "batch_size": 2})
        assert {(stage.steps, stage.batch_size) for stage in changed.stages} == {(3, 2)}
