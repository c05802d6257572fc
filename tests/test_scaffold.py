"""`fusionkit new` and `fusionkit check`: what is written is found and passes its contract."""

import ast
import os
import shutil
import subprocess
import sys
import tomllib

import pytest
from click.testing import CliRunner

from fusionkit import scaffold
from fusionkit.cli import commands
from fusionkit.errors import BadRequest
from fusionkit.registry import HOOKS, KINDS


def pretend_install(home, site):
    """What an installer leaves of a package: its modules and its entry points."""
    [package] = home.glob("fusionkit_*")
    shutil.copytree(package, site / package.name)
    project = tomllib.loads((home / "pyproject.toml").read_text())["project"]
    info = site / f"{package.name}-{project['version']}.dist-info"
    info.mkdir()
    info.joinpath("METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    [(name, value)] = project["entry-points"]["fusionkit"].items()
    info.joinpath("entry_points.txt").write_text(f"[fusionkit]\n{name} = {value}\n")
    return name


def run(site, *command, **more):
    """A command where what was installed in ``site`` and the standard plugin are all there is."""
    names = [p.name.split("-")[0].removeprefix("fusionkit_") for p in site.glob("*.dist-info")]
    named = ",".join([*(n.replace("_", "-") for n in names), "standard"])
    environment = {**os.environ, "PYTHONPATH": str(site), "FUSIONKIT_PLUGINS": named, **more}
    environment.pop("PYTEST_XDIST_WORKER", None)
    return subprocess.run(
        [sys.executable, *command], env=environment, text=True, capture_output=True, timeout=300
    )


def test_every_kind_is_written_found_and_passes_its_contract(tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    names = [
        pretend_install(scaffold.new(f"my-{kind}", kind, tmp_path), site) for kind in KINDS
    ]
    code = (
        "from fusionkit.testing.check import check\n"
        f"print({{n: check(n) for n in {names!r}}})"
    )
    done = run(site, "-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == str(dict.fromkeys(names, True)), done.stdout


def test_the_tests_it_writes_pass(tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    home = scaffold.new("my-folder", "dataset", tmp_path)
    pretend_install(home, site)
    done = run(site, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", str(home), str(home))
    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout and "skipped" not in done.stdout.splitlines()[-1]


@pytest.mark.parametrize("kind", KINDS)
def test_names_follow_from_the_name(kind, tmp_path):
    home = scaffold.new("fusionkit-warm-glow", kind, tmp_path)
    assert home == tmp_path / "fusionkit-warm-glow"
    project = tomllib.loads((home / "pyproject.toml").read_text())["project"]
    assert project["name"] == "fusionkit-warm-glow"
    assert project["entry-points"]["fusionkit"] == {"warm-glow": "fusionkit_warm_glow"}
    init = (home / "fusionkit_warm_glow" / "__init__.py").read_text()
    [hook] = [h for h, k in HOOKS.items() if k == kind]
    assert f"def {hook}()" in init and '"warm-glow"' in init
    for file in home.rglob("*.py"):
        text = file.read_text()
        ast.parse(text)
        assert "omponent-name" not in text and "Component" not in text, file
        assert "fusionkit_component" not in text, file


def test_a_bad_request_writes_nothing(tmp_path):
    for name in ("My-Gate", "my gate", "2fast", "a--b", ""):
        with pytest.raises(BadRequest, match="cannot name a component"):
            scaffold.new(name, "modulation", tmp_path)
    with pytest.raises(BadRequest, match="already, and a name has one owner"):
        scaffold.new("film", "modulation", tmp_path)
    with pytest.raises(BadRequest, match="modulation"):
        scaffold.new("my-gate", "modulations", tmp_path)
    assert not list(tmp_path.iterdir())
    scaffold.new("my-gate", "modulation", tmp_path)
    with pytest.raises(BadRequest, match="exists already"):
        scaffold.new("my-gate", "modulation", tmp_path)


def test_the_commands_say_what_to_do_next(tmp_path):
    runner = CliRunner()
    done = runner.invoke(
        commands, ["new", "my-gate", "--kind", "modulation", "--folder", str(tmp_path)]
    )
    assert done.exit_code == 0, done.output
    assert "fusionkit check my-gate" in done.output
    done = runner.invoke(commands, ["check", "standrad"])
    assert "Did you mean 'standard'" in str(done.exception)


def test_a_broken_promise_fails_the_check(tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    home = scaffold.new("my-gate", "modulation", tmp_path)
    code = home / "fusionkit_my_gate" / "modulation.py"
    code.write_text(code.read_text().replace("nn.init.zeros_(self.gate.bias)", "pass"))
    pretend_install(home, site)
    done = run(site, "-m", "fusionkit", "check", "my-gate")
    assert done.returncode == 1
    assert "test_starts_as_the_sum_if_it_promises_to" in done.stdout
