"""What every test of the host and of the bundled plugins may use."""

import os
from pathlib import Path

import pytest

# Set before torch is imported, and inherited by kernels and other processes that tests start. The
# tensors of tests are so small that more threads only wait for each other, and with a worker per
# core (pytest-xdist) each core is taken.
_THREADS = 1 if "PYTEST_XDIST_WORKER" in os.environ else min(2, os.cpu_count() or 1)
os.environ.setdefault("OMP_NUM_THREADS", str(_THREADS))


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of the real data: ``$FUSIONKIT_DATA``, or ``../shared/data`` beside the project."""
    named = os.environ.get("FUSIONKIT_DATA")
    beside = Path(__file__).resolve().parents[1] / "shared" / "data"
    for place in ([Path(named)] if named else []) + [beside]:
        if place.is_dir():
            return place
    pytest.skip(f"no real data: $FUSIONKIT_DATA is {named or 'not set'}, and there is no {beside}")
