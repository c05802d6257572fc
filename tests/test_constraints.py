"""The pins: one set of versions in two files, and no address of a package index in either."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PINS = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()


def name(requirement: str) -> str:
    """The normalised name of a requirement line."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


def test_uv_and_pip_are_given_the_same_pins():
    assert PROJECT["tool"]["uv"]["constraint-dependencies"] == PINS, "run `make constraints`"


def test_everything_asked_for_is_pinned():
    project = PROJECT["project"]
    asked = [*project["dependencies"], *PROJECT["dependency-groups"]["dev"]]
    for extra in project.get("optional-dependencies", {}).values():
        asked += extra
    missing = {name(line) for line in asked} - {name(pin) for pin in PINS}
    assert not missing - {"fusionkit"}, "run `make constraints`"


def test_each_pin_is_one_exact_version():
    loose = [pin for pin in PINS if not re.match(r"[\w.-]+==[\w.+!]+( ; .+)?$", pin)]
    assert not loose


@pytest.mark.parametrize(
    "file", ["constraints.txt", "pyproject.toml", "environment.yml", "Makefile"]
)
def test_no_package_index_is_named(file):
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    assert not [
        line for line in lines if re.search(r"pypi|pythonhosted|--index|index-url *=", line)
    ]


def test_the_conda_form_uses_the_pins_and_the_same_tools():
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    listed = re.findall(r"^ +- (.+)$", text, re.MULTILINE)
    assert "-c constraints.txt" in listed
    tools = {name(line) for line in PROJECT["dependency-groups"]["dev"]} - {"fusionkit"}
    assert "-e .[hub,data]" in listed
    assert tools <= {name(line) for line in listed if not line.startswith("-")}
