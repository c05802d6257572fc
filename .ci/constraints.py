"""Resolve every dependency anew and write the pins to both places that need them.

    python .ci/constraints.py

``constraints.txt`` is the list that pip and conda read; ``uv run`` and ``uv sync`` read the same
lines from ``[tool.uv] constraint-dependencies`` in ``pyproject.toml`` and cannot be pointed at a
file. ``uv.lock`` is not kept because it spells out the address of the package index.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PINS = re.compile(r"^constraint-dependencies = \[\n.*?^\]\n", re.MULTILINE | re.DOTALL)
EXPORT = "export --no-hashes --no-emit-project --no-header --no-annotate --all-extras --quiet"


def resolve(uv: str, pyproject: str) -> list[str]:
    """Newest versions that fit together, one pinned line per package and environment marker."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "pyproject.toml").write_text(PINS.sub("", pyproject), encoding="utf-8")
        for name in ("README.md", "LICENSE"):
            shutil.copy(ROOT / name, folder)
        command = [uv, *EXPORT.split(), "--project", folder]
        done = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE)
    return [line for line in done.stdout.splitlines() if line.strip()]


def main() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    if not PINS.search(pyproject):
        sys.exit("pyproject.toml has no `constraint-dependencies = [` list under [tool.uv].")
    pins = resolve(os.environ.get("UV", "uv"), pyproject)
    listed = "".join(f"  {quoted(pin)},\n" for pin in pins)
    pyproject = PINS.sub(lambda _: f"constraint-dependencies = [\n{listed}]\n", pyproject)
    (ROOT / "pyproject.toml").write_text(pyproject, encoding="utf-8")
    (ROOT / "constraints.txt").write_text("\n".join(pins) + "\n", encoding="utf-8")
    print(f"{len(pins)} pins written to constraints.txt and pyproject.toml")


def quoted(pin: str) -> str:
    return f'"{pin}"' if '"' not in pin else f"'{pin}'"


if __name__ == "__main__":
    main()
