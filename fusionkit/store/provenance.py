"""Who made a run: package versions, source commit, machine, and whether the process lives."""

import importlib.metadata
import os
import platform
import re
import socket
import subprocess
import sys
from pathlib import Path

_LARGEST_DIFF = 20_000
"""Characters of uncommitted changes worth keeping beside the commit; longer ones only flagged."""


def package_versions() -> dict[str, str]:
    """Versions of fusionkit, of what it requires, and of every package that offers it plugins."""
    names = {"fusionkit", "numcodecs", "numpy", "torch", "xarray", "zarr"}
    for line in _requirements("fusionkit"):
        names.add(re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0])
    for entry in importlib.metadata.entry_points(group="fusionkit"):
        if entry.dist is not None:
            names.add(entry.dist.name)
    versions = {}
    for name in sorted(names, key=str.lower):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _requirements(name: str) -> list[str]:
    try:
        return importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return []


def source_commit() -> dict | None:
    """The git commit of the running sources, or of the current folder, or None without one.

    Keys: ``commit``, ``dirty`` (whether tracked files differ from it), ``folder`` (the name of the
    repository) and, when it is short, ``diff``: a commit alone misleads where it is not what ran.
    """
    package = Path(__file__).resolve().parent
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is not None:
        folder = package
    else:
        folder = Path.cwd()
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return None
    top = _git(folder, "rev-parse", "--show-toplevel") or str(folder)
    diff = _git(Path(top), "diff", "HEAD") or ""
    found = {"commit": commit, "dirty": bool(diff), "folder": Path(top).name}
    if 0 < len(diff) <= _LARGEST_DIFF:
        found["diff"] = diff
    return found


def _git(folder: Path, *words: str) -> str | None:
    """Output of a git command, or None when git, the folder or the repository is not there."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=10,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def machine() -> dict:
    """Processor name, cores this process may use, operating system."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:
        cores = os.cpu_count() or 1
    return {"cpu": _cpu_name(), "cores": cores, "system": platform.platform()}


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.lower().startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def python_version() -> str:
    """Implementation and version of the running Python."""
    return f"{platform.python_implementation()} {sys.version.split()[0]}"


def this_process() -> dict:
    """What names this process among all: host, id, and when the system started it."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "born": _born(os.getpid())}


def is_alive(process: dict) -> bool | None:
    """Whether a process that :func:`this_process` described still runs; None on another host."""
    if process.get("host") != socket.gethostname():
        return None
    pid = process.get("pid", 0)
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    born = process.get("born")
    return born is None or _born(pid) in (None, born)  # a different birth: the id was given anew


def _born(pid: int) -> int | None:
    """Start of a process in clock ticks since boot; -1 for a dead one not yet collected, None where
    the system does not tell (anything but Linux)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return None
    return -1 if fields[0] == "Z" else int(fields[19])
