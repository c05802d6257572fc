"""``fusionkit check``: the contract of every component that an installed plugin offers."""

import os
import sys
import tempfile
from pathlib import Path

import pytest

from fusionkit.errors import BadRequest, did_you_mean
from fusionkit.registry import Registry

MODULE = '''"""Contracts of the plugin {plugin}."""
from fusionkit.registry import Registry
from fusionkit.testing import contracts

globals().update(contracts(Registry.from_environment(), {plugin!r}))
'''


def check(plugin: str, *pytest_options: str) -> bool:
    """Run the contracts; pytest prints what fails and why.

    Args:
        plugin: its name, as `fusionkit plugins` prints it.
        pytest_options: passed on.

    Returns:
        Whether everything passed.

    Raises:
        BadRequest: no such plugin, or one that did not load or offers nothing.
    """
    registry = Registry.from_environment()
    plugins = {row["name"]: row for row in registry.describe() if row["kind"] == "plugin"}
    if plugin not in plugins:
        raise BadRequest(
            f"no plugin {plugin!r} is installed.{did_you_mean(plugin, plugins)} "
            f"Installed: {', '.join(sorted(plugins))}.",
            asked=plugin,
            known=plugins,
        )
    row = plugins[plugin]
    if row["status"] != "ok":
        raise BadRequest(f"plugin {plugin!r} is {row['status']}: {row['error']}")
    offered = [r for r in registry.describe() if r["kind"] != "plugin" and r["plugin"] == plugin]
    if not offered:
        raise BadRequest(f"plugin {plugin!r} offers no component.")
    print("checks", ", ".join(f"{r['kind']} {r['name']}" for r in offered), flush=True)
    with tempfile.TemporaryDirectory(prefix="fusionkit-check-") as folder:
        module = Path(folder, "test_contracts.py")
        module.write_text(MODULE.format(plugin=plugin), encoding="utf-8")
        settings = Path(folder, "pytest.ini")
        settings.write_text("[pytest]\n", encoding="utf-8")
        before = os.environ.pop("PYTEST_ADDOPTS", None)
        try:
            status = pytest.main(
                ["-q", "-rs", "--tb=short", "-p", "no:cacheprovider", "-c", str(settings),
                 f"--rootdir={folder}", *pytest_options, str(module)]
            )  # fmt: skip
        finally:
            sys.modules.pop("test_contracts", None)
            if before is not None:
                os.environ["PYTEST_ADDOPTS"] = before
    return status == 0
