"""What every test of the host and of the bundled plugins may use."""

import os
from pathlib import Path

import pytest

# Set before torch is imported, and inherited by workers, kernels and other processes that tests
# start. pytest-xdist runs a worker per core, and two threads of torch that share a core with those
# of another worker wait for each other: the main job's notebook then took fifteen times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of the real data: ``$FUSIONKIT_DATA``, or ``../shared/data`` beside the project."""
    named = os.environ.get("FUSIONKIT_DATA")
    beside = Path(__file__).resolve().parents[1] / "shared" / "data"
    for place in ([Path(named)] if named else []) + [beside]:
        if place.is_dir():
            return place
    pytest.skip(f"no real data: $FUSIONKIT_DATA is {named or 'not set'}, and there is no {beside}")
