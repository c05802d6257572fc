"""Which plugins are installed, which of them are wanted, and where their code comes from."""

import json
import os
import subprocess
from dataclasses import dataclass, field
from importlib import metadata
from importlib.metadata import EntryPoint
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

from packaging.requirements import InvalidRequirement, Requirement

from fusionkit.errors import did_you_mean

GROUP = "fusionkit"
"""Entry-point group in which plugins announce themselves."""

ONLY, BLOCK = "FUSIONKIT_PLUGINS", "FUSIONKIT_BLOCK"
"""Environment variables: load only these, leave these out; comma-separated names."""


@dataclass(frozen=True)
class Selection:
    """Which plugins are wanted, by the names of plugins or of distributions."""

    variables: dict[str, str] = field(default_factory=dict)
    """The variables as they were set."""

    @classmethod
    def from_environment(cls) -> "Selection":
        return cls({v: os.environ[v] for v in (ONLY, BLOCK) if v in os.environ})

    def listed(self, variable: str) -> set[str]:
        """Names in a variable, spelt for comparison."""
        return {plain(name) for name in self.variables[variable].split(",") if name.strip()}

    def left_out_by(self, point: EntryPoint) -> str:
        """The variable that leaves an entry point out, or nothing."""
        for variable in self.variables:
            named = bool(self.listed(variable) & _names(point))
            if named != (variable == ONLY):
                return variable
        return ""


@dataclass
class Found:
    """What is installed, sorted by name."""

    points: dict[str, list[EntryPoint]] = field(default_factory=dict)
    """Wanted plugins: name -> entry points, more than one where distributions disagree."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Unwanted plugins: name -> the variable that says so."""
    missing: list[tuple[str, str, str]] = field(default_factory=list)
    """``(variable, name, hint)`` of names that a variable lists and nobody installed."""


def find(selection: Selection) -> Found:
    """Entry points of all installed distributions, sorted by name; imports none of them."""
    by_name: dict[str, dict[str, EntryPoint]] = {}
    for point in metadata.entry_points(group=GROUP):
        # A bundle and a plugin's own package may both list it, with one value: one plugin.
        by_name.setdefault(point.name, {}).setdefault(point.value, point)
    found = Found()
    for name in sorted(by_name):
        points = list(by_name[name].values())
        wanted = [point for point in points if not selection.left_out_by(point)]
        if wanted:
            found.points[name] = wanted
        else:
            found.left_out[name] = selection.left_out_by(points[0])
    known = {n for points in by_name.values() for p in points.values() for n in _names(p)}
    found.missing = [
        (variable, name, did_you_mean(name, known))
        for variable in selection.variables
        for name in sorted(selection.listed(variable) - known)
    ]
    return found


def owner(point: EntryPoint) -> tuple[str, str]:
    """Name and version of the distribution that lists an entry point."""
    if point.dist is None:
        return "", ""
    return point.dist.name or "", point.dist.version or ""


def unmet_host(point: EntryPoint) -> str:
    """What the plugin's distribution asks of the host that this host is not, or nothing.

    Installers see to it, but not for what was installed with ``--no-deps`` or before the host.
    """
    for line in (point.dist.requires if point.dist is not None else None) or ():
        try:
            wanted = Requirement(line)
        except InvalidRequirement:
            continue
        if plain(wanted.name) == "fusionkit" and not (wanted.marker or wanted.extras):
            have = metadata.version("fusionkit")
            if not wanted.specifier.contains(have, prereleases=True):
                return (
                    f"needs fusionkit{wanted.specifier}, and this is fusionkit {have}: upgrade "
                    "fusionkit, or install a version of the plugin made for this one"
                )
    return ""


def source_of(distribution: str) -> dict[str, Any]:
    """``editable``, and for an editable install in a git checkout ``commit`` and ``dirty``."""
    folder = _editable_folder(distribution) if distribution else None
    return {"editable": folder is not None} | (_checkout(folder) if folder else {})


def plain(name: str) -> str:
    """Spelling under which names of plugins and distributions are compared."""
    return name.strip().lower().replace("_", "-").replace(".", "-")


def _names(point: EntryPoint) -> set[str]:
    return {plain(point.name), plain(owner(point)[0])} - {""}


def _editable_folder(distribution: str) -> str | None:
    """The source folder of an editable install, as its installer noted it."""
    try:
        note = metadata.distribution(distribution).read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        return None
    try:
        origin = json.loads(note or "{}")
    except ValueError:
        return None
    if not origin.get("dir_info", {}).get("editable"):
        return None
    return url2pathname(urlparse(origin.get("url", "")).path) or None


def _checkout(folder: str) -> dict[str, Any]:
    """Commit of the folder and whether anything in it differs; empty where git cannot tell."""

    def git(*words: str) -> str:
        command = ["git", "--no-optional-locks", "-C", folder, *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        return done.stdout.strip()

    try:
        return {
            "commit": git("rev-parse", "HEAD"),
            "dirty": git("status", "--porcelain", ".") != "",
        }
    except (OSError, subprocess.SubprocessError):
        return {}
