"""The contract of a preset."""

import pytest

from fusionkit.protocols import Preset
from fusionkit.registry import Registry
from fusionkit.testing.contract import Contract


class PresetContract(Contract):
    """``factory()`` returns a :class:`~fusionkit.protocols.Preset` whose metrics can be had."""

    @pytest.fixture
    def offered(self) -> Registry:
        """Where the metrics come from."""
        return Registry.from_environment()

    def test_states_every_rule_its_numbers_depend_on(self):
        preset = self.build()
        assert isinstance(preset, Preset)
        for rule in ("name", "gray", "quantisation", "saving", "source"):
            assert getattr(preset, rule).strip(), rule

    def test_every_metric_it_names_is_offered(self, offered):
        preset = self.build()
        assert preset.metrics
        assert not set(preset.metrics) & set(preset.also)
        for code in (*preset.metrics.values(), *preset.also.values()):
            assert offered.entry("metric", code)
