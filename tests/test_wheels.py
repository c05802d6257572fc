"""A stranger's plugin as a wheel: built, installed beside the host, used, and gone again."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from fusionkit import scaffold

ROOT = Path(__file__).resolve().parents[1]

pytestmark = [pytest.mark.slow, pytest.mark.notebook]


def run(*command):
    """A command away from the checkout, which ``python -c`` and ``-m`` would put on the path."""
    kept = ("PYTEST", "FUSIONKIT", "PYTHONPATH")
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=600, cwd="/",
        env={k: v for k, v in os.environ.items() if not k.startswith(kept)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def wheel(source, folder):
    """Built by the standard front end with the build tools already here."""
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, source)
    [file] = folder.glob("*.whl")
    return file


def test_a_wheel_is_found_used_in_an_ablation_and_gone_after_uninstalling(tmp_path):
    home = scaffold.new("my-gate", "modulation", tmp_path)
    wheels = wheel(ROOT, tmp_path / "host"), wheel(home, tmp_path / "plugin")
    with zipfile.ZipFile(wheels[0]) as packed:
        assert "fusionkit_standard/words.safetensors" in packed.namelist()

    # A fresh environment; what the host depends on is lent by this one.
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    [site] = (tmp_path / "env" / "lib").glob("python*/site-packages")
    (site / "lent.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    pip = (sys.executable, "-m", "pip", "--python", python, "--quiet")
    run(*pip, "install", "--no-deps", "--no-index", "--force-reinstall", *wheels)

    where = run(python, "-c", "import fusionkit; print(fusionkit.__file__)")
    assert str(site) in where, "the wheel of the host is what runs"
    listed = run(python, "-m", "fusionkit", "plugins", "--kind", "modulation")
    assert "my-gate" in listed

    out = tmp_path / "out.ipynb"
    run(
        python, "-m", "papermill", ROOT / "notebooks" / "ablation.ipynb", out,
        "-p", "modulation", "my-gate", "-p", "steps", 4, "-p", "train_pairs", 8,
        "-p", "test_pairs", 4, "-p", "questions", 4, "-p", "shown", 1,
        "-p", "store", tmp_path / "run.zarr", "--cwd", tmp_path,
        "--no-progress-bar", "--start-timeout", 300,
    )  # fmt: skip
    assert "my-gate" in out.read_text()

    run(*pip, "uninstall", "--yes", "fusionkit-my-gate")
    listed = run(python, "-m", "fusionkit", "plugins", "--kind", "modulation")
    assert "my-gate" not in listed and "film" in listed
