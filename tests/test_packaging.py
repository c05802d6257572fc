"""One distribution carries the host and the bundled plugins; the two lists of them must agree.

A plugin folder stays out of the bundle by ``[tool.fusionkit] bundled = false``.
"""

import importlib
import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def read(path: Path) -> dict:
    return tomllib.loads(path.read_text(encoding="utf-8"))


PROJECT = read(ROOT / "pyproject.toml")
OUTSIDE = {"minilm"}  # a plugin beside the bundle, as somebody else's would be
FOLDERS = sorted(
    path.parent
    for path in (ROOT / "plugins").glob("*/pyproject.toml")
    if path.parent.name not in OUTSIDE
)
BUNDLED = [
    folder
    for folder in FOLDERS
    if read(folder / "pyproject.toml").get("tool", {}).get("fusionkit", {}).get("bundled", True)
]


def entry_points(project: dict) -> dict[str, str]:
    return project["project"]["entry-points"]["fusionkit"]


def requirements(project: dict) -> set[str]:
    """Names only, as the package index compares them."""
    lines = project["project"]["dependencies"]
    return {re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", line)[0]).lower() for line in lines}


def test_every_folder_with_a_plugin_says_how_it_is_packaged():
    with_code = {
        path.parent
        for path in (ROOT / "plugins").glob("*/fusionkit_*")
        if path.parent.name not in OUTSIDE
    }
    assert with_code == set(FOLDERS)


def test_the_bundle_declares_the_entry_points_its_plugins_declare():
    declared = [entry_points(read(folder / "pyproject.toml")) for folder in BUNDLED]
    together = {name: value for points in declared for name, value in points.items()}
    assert len(together) == sum(map(len, declared)), "two plugin folders declare one name"
    assert entry_points(PROJECT) == together


def test_the_bundle_carries_the_packages_of_its_plugins():
    carried = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    names = [folder.relative_to(ROOT).as_posix() for folder in BUNDLED]
    own = [f"{name}/fusionkit_{Path(name).name}" for name in names]
    assert sorted(carried) == sorted(["fusionkit", *own])


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_distribution_package_and_entry_point_are_named_after_the_folder(folder):
    project = read(folder / "pyproject.toml")
    package = f"fusionkit_{folder.name}"
    assert project["project"]["name"] == f"fusionkit-{folder.name}"
    assert entry_points(project) == {folder.name: package}
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == [package]
    assert importlib.import_module(package).__version__ == project["project"]["version"]


@pytest.mark.parametrize("folder", BUNDLED, ids=lambda folder: folder.name)
def test_a_bundled_plugin_needs_nothing_the_bundle_does_not_bring(folder):
    needed = requirements(read(folder / "pyproject.toml")) - {"fusionkit"}
    assert needed <= requirements(PROJECT)


def test_what_is_installed_is_what_the_project_declares():
    installed = metadata.distribution("fusionkit").entry_points.select(group="fusionkit")
    found = {point.name: point.value for point in installed}
    assert found == entry_points(PROJECT), "the installation is older than pyproject.toml"
