"""``fusionkit new``: a plugin package that installs, is found and passes its tests.

The templates are working components with stand-in names: ``component-name`` (as people type it),
``component_name``, ``Component`` (class), ``component`` (function), ``fusionkit_component``
(package), ``component_module`` (module), ``component-kind`` and ``fusionkit_hook``.
"""

import atexit
import os
import re
import shutil
import sys
import tomllib
from importlib import invalidate_caches, metadata
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

from fusionkit.errors import BadRequest
from fusionkit.registry import KINDS, Registry, check_kind

USAGE = {
    "modulation": "papermill notebooks/ablation.ipynb out.ipynb -p modulation component-name",
    "encoder": "papermill notebooks/ablation.ipynb out.ipynb -p encoder component-name",
    "network": "papermill notebooks/ablation.ipynb out.ipynb -p network component-name",
    "recipe": "fusionkit train component-name",
    "metric": "fusionkit evaluate --ir IR --vi VI --fused FUSED --metrics component-name",
    "preset": "fusionkit evaluate --ir IR --vi VI --fused FUSED --variant component-name",
    "dataset": "fusionkit train control --dataset component-name --data-root FOLDER",
}
"""A line that uses a component of the kind."""


def new(name: str, kind: str, folder: str | Path = ".") -> Path:
    """Write the package of a new component.

    Args:
        name: of the component, lower-case words joined by hyphens; the distribution is called
            ``fusionkit-NAME``, the package ``fusionkit_NAME``, the entry point NAME.
        kind: one of :data:`fusionkit.registry.KINDS`.
        folder: where the package's folder is made.

    Returns:
        The folder of the package.

    Raises:
        BadRequest: a name that cannot be one, that an installed component of the kind has, or
            whose folder exists already; an unknown kind.
        OSError: the folder cannot be written; nothing is left of the package then.
    """
    check_kind(kind)
    name = name.removeprefix("fusionkit-")
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise BadRequest(
            f"{name!r} cannot name a component: lower-case words joined by hyphens, as in my-gate.",
            asked=name,
        )
    if name in Registry.from_environment().names(kind):
        raise BadRequest(
            f"an installed plugin offers {kind} {name!r} already, and a name has one owner; "
            "choose another.",
            asked=name,
        )
    home = Path(folder, f"fusionkit-{name}")
    if home.exists():
        raise BadRequest(f"{home} exists already; nothing was written.", asked=str(home))
    package = f"fusionkit_{name.replace('-', '_')}"
    template = files("fusionkit") / "templates"
    code = (template / "kinds" / f"{kind}.py").read_text(encoding="utf-8")
    test = "test_dataset.py" if kind == "dataset" else "test.py"
    contents = {
        "pyproject.toml": (template / "pyproject.toml.txt").read_text(encoding="utf-8"),
        "README.md": (template / "README.md").read_text(encoding="utf-8"),
        f"{package}/__init__.py": (template / "init.py").read_text(encoding="utf-8"),
        f"{package}/{kind}.py": code,
        f"tests/test_{name.replace('-', '_')}.py": (template / test).read_text(encoding="utf-8"),
    }
    made = "Component" if "class Component" in code else "component"
    words = {
        "component-usage": f"\n    {USAGE[kind]}" if kind in USAGE else "",
        "component-name": name,
        "component-kind": kind,
        "component_module": kind,
        "fusionkit_component": package,
        "fusionkit_hook": f"fusionkit_{KINDS[kind]}",
        "component_name": name.replace("-", "_"),
        "host-version": ".".join(metadata.version("fusionkit").split(".")[:2]),
        r"\bComponent\b": _title(name) if made == "Component" else name.replace("-", "_"),
        r"\bcomponent\(\)": f"{name.replace('-', '_')}()",
        "TestComponent": f"Test{_title(name)}",
    }
    home.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{home.name}.", dir=home.parent) as beside:
        for path, text in contents.items():
            for stand_in, word in words.items():
                text = re.sub(stand_in, word, text)
            file = Path(beside, home.name, path)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text.rstrip() + "\n", encoding="utf-8")
        Path(beside, home.name).rename(home)
    return home


def preview(home: str | Path) -> str:
    """Let this process find the plugin of a package folder as if it were installed.

    For trying things out, in a notebook for example: nothing is written to the environment, and
    the sources stay live for whatever is imported after a change. Processes started from here find
    it too.

    Returns:
        The name of the plugin.

    Raises:
        BadRequest: the folder is no plugin package.
    """
    home = Path(home).resolve()
    try:
        project = tomllib.loads((home / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        [(name, value)] = project["entry-points"]["fusionkit"].items()
        distribution, version = project["name"], project["version"]
    except (OSError, KeyError, ValueError) as error:
        raise BadRequest(
            f"{home} is no plugin package: its pyproject.toml needs a name, a version and one "
            f"entry point in the group `fusionkit` ({type(error).__name__}: {error})."
        ) from error
    listed = Path(mkdtemp(prefix="fusionkit-preview-"))
    atexit.register(shutil.rmtree, listed, ignore_errors=True)
    info = listed / f"{distribution.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    requires = "".join(f"Requires-Dist: {line}\n" for line in project.get("dependencies", ()))
    info.joinpath("METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n{requires}",
        encoding="utf-8",
    )
    info.joinpath("entry_points.txt").write_text(
        f"[fusionkit]\n{name} = {value}\n", encoding="utf-8"
    )
    places = [str(home), str(listed)]
    sys.path[:0] = places
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([*places, *([before] if before else [])])
    invalidate_caches()
    return name


def _title(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("-"))
