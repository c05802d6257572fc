"""The reference pages are what the code says."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_pages_on_hooks_and_components_are_current():
    done = subprocess.run(
        [sys.executable, ROOT / ".ci" / "reference.py", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
