"""Plugins made inside a test, registered, used through the public path, forgotten."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from fusionkit.hookspecs import hookimpl
from fusionkit.registry import KINDS, Registry


@pytest.fixture
def registry() -> Registry:
    """A registry that is empty and cannot discover anything."""
    return Registry()


def install(registry: Registry, name: str, /, **hooks: Any) -> ModuleType:
    """Register a throw-away plugin and return it.

    Each keyword is a kind, or a hook by its full name (rightly or wrongly spelt); its value is the
    mapping to answer with, or a function that answers::

        install(registry, "mine", modulation={"mine-gate": Gate}, fusionkit_losess={})
    """
    plugin = ModuleType(name)
    for key, answer in hooks.items():
        hook = f"fusionkit_{KINDS[key]}" if key in KINDS else key
        setattr(plugin, hook, hookimpl(_answering(answer)))
    registry.register(plugin, name)
    return plugin


def _answering(answer: Any) -> Callable[[], Any]:
    """A fresh function without arguments: the mark of a hook must not stick to a caller's own."""

    def ask() -> Any:
        return answer() if callable(answer) else answer

    return ask
