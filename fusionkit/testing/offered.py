"""Contracts for everything a plugin offers, without writing one class per component."""

import re
from typing import Any

import pytest

from fusionkit.errors import BadRequest, MissingWeights
from fusionkit.registry import KINDS, Registry
from fusionkit.testing.contract import Contract
from fusionkit.testing.data import DatasetContract, DegradationContract
from fusionkit.testing.encoder import EncoderContract
from fusionkit.testing.guide import CaptionerContract, GuideContract
from fusionkit.testing.inputs import TinyEncoder
from fusionkit.testing.loss import LossContract
from fusionkit.testing.metric import MetricContract
from fusionkit.testing.modulation import ModulationContract
from fusionkit.testing.network import NetworkContract
from fusionkit.testing.preset import PresetContract
from fusionkit.testing.recipe import RecipeContract

CONTRACTS: dict[str, type[Contract]] = {
    "encoder": EncoderContract,
    "modulation": ModulationContract,
    "loss": LossContract,
    "metric": MetricContract,
    "preset": PresetContract,
    "network": NetworkContract,
    "recipe": RecipeContract,
    "guide": GuideContract,
    "captioner": CaptionerContract,
    "degradation": DegradationContract,
    "dataset": DatasetContract,
}

FACTS = ("uses_text", "unreached", "starts_as_sum", "memory_power")
"""Attributes of a factory that its contract reads."""


def contracts(
    registry: Registry,
    *plugins: str,
    options: dict[tuple[str, str], dict[str, Any]] | None = None,
    leave_out: tuple[tuple[str, str], ...] = (),
) -> dict[str, type[Contract]]:
    """A test class per component, by class name; put them into a test module's ``globals()``.

    Args:
        registry: where the components are.
        plugins: the plugins to test; none named means all.
        options: ``(kind, name)`` -> options to build it with. A factory that takes ``encoder`` or
            ``registry`` and is given none gets :class:`TinyEncoder` and the registry.
        leave_out: ``(kind, name)`` of components with a contract test of their own.

    A component whose weights are not there is skipped with its own message.
    """
    classes = {}
    for kind in KINDS:
        for name, entry in registry.entries(kind).items():
            if (plugins and entry.plugin not in plugins) or (kind, name) in leave_out:
                continue
            given = (options or {}).get((kind, name), {})
            title = "Test" + "".join(
                word[:1].upper() + word[1:] for word in re.split(r"\W+", f"{kind}-{name}")
            )
            facts = {f: getattr(entry.factory, f) for f in FACTS if hasattr(entry.factory, f)}
            body = {"build": _builder(registry, kind, name, given), "__doc__": f"{kind} {name}"}
            classes[title] = type(title, (CONTRACTS[kind],), facts | body)
    return classes


def _builder(registry: Registry, kind: str, name: str, given: dict[str, Any]) -> Any:
    def build(self: Contract, **options: Any) -> Any:
        offers = {"encoder": TinyEncoder, "registry": lambda: registry}
        for offer, make in offers.items():
            if offer not in given and registry.accepts(kind, name, offer):
                options.setdefault(offer, make())
        try:
            return registry.create(kind, name, **(options | given))
        except MissingWeights as error:
            pytest.skip(str(error))
        except BadRequest as error:
            if kind == "dataset" and not given:  # a layout without its folder
                pytest.skip(f"its own tests must bring the folder: {error}")
            raise

    return build
