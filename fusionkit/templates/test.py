"""The contract of its kind, on what this package offers, and whatever else it promises."""

from fusionkit.registry import Registry
from fusionkit.testing import contracts

REGISTRY = Registry.from_environment()

globals().update(contracts(REGISTRY, "component-name"))


def test_it_is_found():
    assert REGISTRY.entry("component-kind", "component-name").plugin == "component-name"
