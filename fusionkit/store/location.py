"""A place that holds a run: a local folder, memory, or any address fsspec understands.

Arrays are left to zarr. What is here are the small JSON documents beside them, written whole or not
at all, and the lock that lets several processes of one machine edit the same document.
"""

import contextlib
import dataclasses
import datetime
import enum
import errno
import glob
import json
import math
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

from fusionkit.store.errors import StoreError

_DEAD_SECONDS = 60.0
"""A remote lock that has not changed hands for this long belongs to a process that died."""


def _nothing() -> None:
    pass


class _Turn:
    """Whose turn it is at one place, shared by every :class:`Location` of this process there."""

    def __init__(self) -> None:
        self.threads = threading.RLock()
        self.depth = 0
        self.release: Callable[[], None] = _nothing
        self.renew: Callable[[], None] = _nothing


_turns: dict[str, _Turn] = {}
_guard = threading.Lock()


class Location:
    """One folder-like place, named by a path or an address.

    Addresses (``memory://``, ``s3://`` ...) go through fsspec with ``storage_options``; everything
    else, ``file://`` included, is a local folder.
    """

    def __init__(self, path: str | os.PathLike, storage_options: Mapping | None = None) -> None:
        text = os.fspath(path)
        self.options = dict(storage_options or {})
        if text.startswith(("file://", "local://")):
            text = text.split("://", 1)[1]
        self.local: Path | None = None
        if "://" in text or "::" in text:
            import fsspec

            self.url = text.rstrip("/")
            try:
                self._fs, self._root = fsspec.core.url_to_fs(self.url, **self.options)
            except (ImportError, ValueError, TypeError) as error:
                raise StoreError(
                    f"{self.url} is no address that can be opened here: {error}"
                ) from error
            self._root = self._root.rstrip("/")
        else:
            self.local = Path(text).expanduser().absolute()
            self.url = str(self.local)
        with _guard:
            self._turn = _turns.setdefault(self.url, _Turn())

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        """The last part of the path."""
        return PurePath(self.url).name

    def zarr_store(self, read_only: bool = False) -> Any:
        """The same place as zarr sees it."""
        if self.local is not None:
            from zarr.storage import LocalStore

            return LocalStore(self.local, read_only=read_only)
        from zarr.storage import FsspecStore

        return FsspecStore.from_url(self.url, storage_options=self.options, read_only=read_only)

    def exists(self) -> bool:
        """Whether anything, file or folder, is there."""
        if self.local is not None:
            return self.local.exists()
        self._fs.invalidate_cache()
        return self._fs.exists(self._root)

    def names(self, key: str = "") -> list[str]:
        """Names directly inside a folder, sorted; empty for a folder that does not exist."""
        if self.local is not None:
            folder = self.local / key
            return sorted(os.listdir(folder)) if folder.is_dir() else []
        self._fs.invalidate_cache()
        folder = f"{self._root}/{key}".rstrip("/")
        try:
            found = self._fs.ls(folder, detail=False)
        except FileNotFoundError:
            return []
        return sorted(entry.rstrip("/").rsplit("/", 1)[-1] for entry in found)

    def files(self, key: str) -> int:
        """How many files lie below a folder, without those that a killed writer left behind."""
        if self.local is not None:
            names = [name for _, _, inside in os.walk(self.local / key) for name in inside]
        else:
            self._fs.invalidate_cache()
            names = self._fs.find(f"{self._root}/{key}")
        return sum(not name.endswith(".partial") for name in names)

    def read(self, key: str) -> dict | None:
        """A JSON document, or None where there is none. Raises ValueError for broken JSON."""
        try:
            if self.local is not None:
                data = (self.local / key).read_bytes()
            else:
                self._turn.renew()
                data = self._fs.cat_file(f"{self._root}/{key}")
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            return json.loads(data)
        except ValueError as error:
            raise ValueError(f"{self.url}/{key} is not readable JSON: {error}") from error

    def write(self, key: str, document: dict) -> None:
        """Replace a JSON document. A crash leaves the old one or the new one, never half of it."""
        data = json.dumps(document, indent=1, allow_nan=False).encode()
        if self.local is None:
            self._turn.renew()
            self._fs.pipe_file(f"{self._root}/{key}", data)
            return
        target = self.local / key
        target.parent.mkdir(parents=True, exist_ok=True)
        # Beside the store, not in it: zarr complains about strange files that a crash left inside.
        draft = self.local.parent / f".{self.local.name}.{uuid.uuid4().hex}.tmp"
        try:
            draft.write_bytes(data)
            os.replace(draft, target)
        finally:
            draft.unlink(missing_ok=True)

    def make(self) -> None:
        """Create the folder, where places have folders."""
        if self.local is not None:
            self.local.mkdir(parents=True, exist_ok=True)

    def tidy(self) -> None:
        """Remove what writers of this place left beside it when they were killed; under the lock,
        so that nobody is at it."""
        if self.local is not None:
            for kind, remove in (("tmp", os.unlink), ("old", shutil.rmtree)):
                for left in self.local.parent.glob(f".{glob.escape(self.local.name)}.*.{kind}"):
                    with contextlib.suppress(OSError):
                        remove(left)

    def remove(self) -> None:
        """Delete everything there. The caller has made sure that it may."""
        if self.local is not None:
            old = self.local.with_name(f".{self.local.name}.{uuid.uuid4().hex}.old")
            os.rename(self.local, old)
            shutil.rmtree(old)
        else:
            self._fs.rm(self._root, recursive=True)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """One writer of documents at a time, among threads and among processes. Re-entrant.

        A local folder is locked by the system, until its holder lets go or dies. Elsewhere an
        object ``<name>.lock`` beside the run is made where none is, which S3 and its like decide in
        one step; its holder renews it, and one that stays the same for a minute is a dead
        process's. A place whose fsspec
        driver cannot make an object exclusively has no lock between processes.
        """
        turn = self._turn
        with turn.threads:
            turn.depth += 1
            try:
                if turn.depth == 1:
                    turn.release = self._lock_processes(turn)
                yield
            finally:
                turn.depth -= 1
                if turn.depth == 0:
                    turn.release()
                    turn.release = turn.renew = _nothing

    def _lock_processes(self, turn: _Turn) -> Callable[[], None]:
        """Wait for the turn among processes; returns what ends it."""
        if self.local is not None:
            handle = _lock_folder(self.local)
            return _nothing if handle is None else lambda: os.close(handle)
        if self.url.startswith("memory:"):
            return _nothing  # no other process sees it
        lock = _ObjectLock(self._fs, f"{self._root}.lock")
        turn.renew = lock.renew
        return lock.release


class _ObjectLock:
    """An object that only one process can make. While held it is renewed, so that those who wait
    see that its holder lives."""

    def __init__(self, fs: Any, key: str) -> None:
        self._fs, self._key, self._own = fs, key, uuid.uuid4().hex
        self._held = self._made()
        self._renewed = time.monotonic()

    def _made(self) -> bool:
        """Wait until it is ours; False where objects cannot be made exclusively."""
        seen, since, pause = b"", time.monotonic(), 0.02
        while True:
            try:
                self._fs.pipe_file(self._key, self._own.encode(), mode="create")
                return True
            except (TypeError, NotImplementedError):
                return False
            except FileExistsError:
                pass
            except OSError as error:
                # S3 answers two who come at the very same moment with "conflict: try again".
                if error.errno not in (errno.EBUSY, errno.EEXIST) and "Conflict" not in str(error):
                    raise
            holder = _content(self._fs, self._key)
            if holder != seen:
                seen, since, pause = holder, time.monotonic(), 0.02
            elif holder and time.monotonic() - since > _DEAD_SECONDS:
                with contextlib.suppress(FileNotFoundError):
                    self._fs.rm_file(self._key)
            time.sleep(pause)
            pause = min(1.0, 1.5 * pause)

    def renew(self) -> None:
        """Say that the holder lives, now and then."""
        if self._held and time.monotonic() - self._renewed > _DEAD_SECONDS / 6:
            self._renewed = time.monotonic()
            self._fs.pipe_file(self._key, f"{self._own} {self._renewed}".encode())

    def release(self) -> None:
        if self._held and _content(self._fs, self._key).startswith(self._own.encode()):
            with contextlib.suppress(FileNotFoundError):
                self._fs.rm_file(self._key)


def _content(fs: Any, key: str) -> bytes:
    try:
        return fs.cat_file(key)
    except FileNotFoundError:
        return b""


def _lock_folder(folder: Path) -> int | None:
    """An exclusive lock on a folder that lasts until the handle is closed; None without flock."""
    try:
        import fcntl
    except ImportError:
        return None
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError:  # some network file systems have no locks
        os.close(handle)
        return None
    return handle


def plain(value: Any, where: str = "value") -> Any:
    """A value as strict JSON can hold it, for keeping among the attributes of a run.

    Numpy numbers and arrays, paths, enumerations, dates, data classes and pydantic models are
    turned into plain ones; NaN and the infinities, which JSON lacks, into the strings ``"NaN"``,
    ``"Infinity"``, ``"-Infinity"``. Anything else raises TypeError and names its place.
    """
    if value is None or (isinstance(value, bool | str) and not isinstance(value, enum.Enum)):
        return value if value is None or isinstance(value, bool) else str(value)
    if isinstance(value, enum.Enum):
        return plain(value.value, where)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if math.isnan(value):
            return "NaN"
        return float(value) if math.isfinite(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, Mapping):
        return {str(key): plain(entry, f"{where}.{key}") for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry, f"{where}[{i}]") for i, entry in enumerate(value)]
    if isinstance(value, set | frozenset):
        return sorted((plain(entry, where) for entry in value), key=str)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, datetime.datetime | datetime.date):
        return value.isoformat()
    if hasattr(value, "model_dump"):
        return plain(value.model_dump(), where)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {f.name: plain(getattr(value, f.name), f"{where}.{f.name}") for f in fields}
    kind = type(value)
    if kind.__module__ == "torch" and kind.__name__ in {"device", "dtype"}:
        return str(value)
    if hasattr(value, "tolist") and kind.__module__.split(".")[0] in {"numpy", "torch"}:
        return plain(value.tolist(), where)
    raise TypeError(
        f"{where} is a {kind.__name__}, which a stored run cannot hold. "
        "Give numbers, text, lists or mappings."
    )
