"""Walls between the rooms, held by tests: who imports whom, and what is never imported early."""

import ast
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HOST = sorted(
    path for path in (ROOT / "fusionkit").rglob("*.py") if "templates" not in path.parts
)
OUTSIDE = {"minilm"}  # a plugin beside the bundle, as somebody else's would be
PLUGINS = sorted(
    path for path in (ROOT / "plugins").glob("*/fusionkit_*") if path.parent.name not in OUTSIDE
)
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

OTHER_OPTIMISERS = {
    "plugins/standard/fusionkit_standard/tiny_clip/measures.py": (
        "fits two numbers when the tiny encoder is made, which is no training of a fusion network"
    ),
    "plugins/standard/fusionkit_standard/tiny_clip/adapting.py": (
        "trains the tiny encoder on its own maps, which is no training of a fusion network"
    ),
    "plugins/terf/fusionkit_terf/effects.py": (
        "edits one picture at test time by fitting an effect to it, as the paper does"
    ),
}
"""Where else a step is taken, and why that is no second training loop. The script that makes the
tiny encoder, plugins/standard/make_tiny_clip.py, is outside the packages: it trains an encoder on
contrastive batches, once, before a release."""


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports(module: ast.Module) -> Iterator[str]:
    """First names of everything imported anywhere in a module, also by ``import_module``."""
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield (node.module or "").partition(".")[0]
        elif isinstance(node, ast.Call) and node.args:
            called = node.func.attr if isinstance(node.func, ast.Attribute) else node.func
            name = called.id if isinstance(called, ast.Name) else called
            first = node.args[0]
            if name in ("import_module", "__import__") and isinstance(first, ast.Constant):
                yield str(first.value).partition(".")[0]


def in_a_fresh_interpreter(code: str) -> set[str]:
    """Modules in memory after the code has run."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def names(paths: list[Path]) -> list[str]:
    return [path.relative_to(ROOT).as_posix() for path in paths]


def test_the_host_imports_no_plugin():
    guilty = [p for p in HOST if any(name.startswith("fusionkit_") for name in imports(tree(p)))]
    assert names(guilty) == []


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda path: path.name)
def test_a_plugin_imports_no_other_plugin(plugin):
    guilty = [
        path
        for path in sorted(plugin.rglob("*.py"))
        if any(n.startswith("fusionkit_") and n != plugin.name for n in imports(tree(path)))
    ]
    assert names(guilty) == []


def test_looking_at_a_run_and_asking_for_help_need_no_torch():
    light = ["fusionkit", "fusionkit.store", "fusionkit.cli", "fusionkit.errors"]
    if importlib.util.find_spec("fusionkit.widgets"):
        light.append("fusionkit.widgets")
    assert "torch" not in in_a_fresh_interpreter(f"import {', '.join(light)}")


def test_the_package_front_exports_lazily_and_completely():
    code = "import fusionkit\nassert 'Registry' in dir(fusionkit)\nfusionkit.__version__"
    assert "torch" not in in_a_fresh_interpreter(code)


def test_every_name_of_the_package_front_is_there():
    import fusionkit

    missing = []
    for name in fusionkit.__all__:
        try:
            getattr(fusionkit, name)
        except (ImportError, AttributeError):
            missing.append(name)
    assert missing == []
    with pytest.raises(AttributeError, match="Did you mean 'evaluate'"):
        fusionkit.evalute  # noqa: B018


def test_bundled_plugins_load_without_torchvision_and_open_clip():
    code = "from fusionkit.registry import Registry\nRegistry.from_environment().describe()"
    modules = in_a_fresh_interpreter(code)
    assert {plugin.name for plugin in PLUGINS} <= modules
    assert not {"torchvision", "open_clip"} & modules


@pytest.mark.parametrize("path", HOST, ids=names(HOST))
def test_a_host_module_imports_neither_torchvision_nor_open_clip_at_top_level(path):
    assert not {"torchvision", "open_clip"} & set(top_level_imports(path))


def top_level_imports(path: Path) -> Iterator[str]:
    """Imports that run when the module is imported: all but those inside functions."""

    def visit(node: ast.AST) -> Iterator[ast.AST]:
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                yield child
                yield from visit(child)

    for node in visit(tree(path)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from imports(ast.Module([node], []))


def test_there_is_one_training_loop():
    steps = {}
    for path in [*HOST, *(file for plugin in PLUGINS for file in sorted(plugin.rglob("*.py")))]:
        found = [node for node in ast.walk(tree(path)) if takes_a_step(node)]
        if found:
            steps[path.relative_to(ROOT).as_posix()] = len(found)
    elsewhere = set(steps) - {"fusionkit/training.py"}
    assert elsewhere <= set(OTHER_OPTIMISERS), "train through fusionkit/training.py"
    assert steps["fusionkit/training.py"] == 1


def takes_a_step(node: ast.AST) -> bool:
    """``optimizer.step(...)`` under any name that holds ``optim`` or ``scaler``."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
        return False
    holder = ast.unparse(node.func.value).lower()
    return node.func.attr == "step" and ("optim" in holder or "scaler" in holder)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_defines_nothing(path):
    for source in code_cells(path):
        lines = [line for line in source.splitlines() if not line.lstrip().startswith(("%", "!"))]
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        defined = [n.name for n in ast.walk(ast.parse("\n".join(lines))) if isinstance(n, kinds)]
        assert defined == [], "a definition in a notebook belongs into the package"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_is_committed_without_outputs(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for number, cell in enumerate(notebook["cells"]):
        assert not cell.get("outputs"), f"cell {number} has outputs"
        assert cell.get("execution_count") is None, f"cell {number} has a count"
        assert not {"papermill", "execution"} & set(cell["metadata"]), f"cell {number}"
    assert not {"papermill", "widgets"} & set(notebook["metadata"])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_runs_on_whatever_python_it_is_opened_with(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_has_one_parameters_cell(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    tags = [cell["metadata"].get("tags", []) for cell in notebook["cells"]]
    assert sum("parameters" in cell for cell in tags) == 1


def code_cells(path: Path) -> list[str]:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    return ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]


def tracked_files() -> list[Path]:
    try:
        listed = subprocess.run(
            ["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout, so nothing is tracked")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_no_tracked_file_names_a_package_registry():
    # In parts, so that this file does not name them either.
    needles = [
        "".join(parts).encode()
        for parts in (
            ("py", "pi.org"),
            ("python", "hosted.org"),
            ("npm", "js.org"),
            ("npm", "js.com"),
            ("conda.", "anaconda.org"),
            ("deb.", "debian.org"),
            ("crates", ".io"),
        )
    ]
    guilty = [p for p in tracked_files() if any(n in p.read_bytes() for n in needles)]
    assert names(guilty) == []


def test_no_large_file_is_tracked_but_the_shipped_weights():
    large = [p for p in tracked_files() if p.stat().st_size > 1_000_000]
    assert [name for name in names(large) if not name.endswith(".safetensors")] == []
