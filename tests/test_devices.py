"""Memory of a process that works on whole pictures, on a processor."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from fusionkit.devices import keep_memory
torch.set_num_threads(1)
def faults(count):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(count):
        torch.zeros(12 << 20).add_(1)  # 48 MB, above what the C library keeps of its own accord
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / count
plain = faults(2)
kept = keep_memory()
faults(20)  # before 2.38 the library needs some rounds to find what was freed
print(plain, int(kept), faults(2))
"""


@pytest.mark.skipif(
    sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="not the GNU C library"
)
def test_large_maps_are_taken_from_memory_that_the_process_already_has():
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True)
    assert not done.returncode, done.stderr
    plain, kept, again = map(float, done.stdout.split())
    assert kept == 1
    assert again < plain / 20, "pages are cleared once, not at every allocation"


def test_another_c_library_is_left_as_it_is(monkeypatch):
    from fusionkit import devices

    monkeypatch.setattr(devices.ctypes, "CDLL", lambda name: object())
    assert devices.keep_memory.__wrapped__() is False
