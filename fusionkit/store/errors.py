"""What can go wrong with a stored run."""

import contextlib
import errno
from collections.abc import Iterator, Sequence
from typing import Any

from fusionkit.errors import FusionkitError, did_you_mean


class StoreError(FusionkitError, ValueError):
    """A run cannot be created, opened, read or written as asked; the message says what to do."""

    status = 2


class RunMismatch(StoreError):
    """The store on disk belongs to a run with other parameters."""


class NotComputed(StoreError):
    """What was asked for has a place in the store, but was never written."""


class Damaged(StoreError):
    """What is on disk is not what was written."""

    status = 1


class StoreFull(StoreError, OSError):
    """No space is left where the run is written; what was written before is kept."""

    status = 1

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.errno = errno.ENOSPC


_REMOTE = ("aiobotocore", "aiohttp", "azure", "botocore", "gcsfs", "google", "requests", "urllib3")
"""Packages whose own errors say that a remote place does not answer or does not let us in."""


@contextlib.contextmanager
def explained(place: object, verb: str = "written") -> Iterator[None]:
    """Turn the errors of disks and of remote places into sentences."""
    remote = "://" in str(place)
    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        if remote and type(error).__module__.split(".")[0] in _REMOTE:
            raise StoreError(
                f"{place} cannot be reached ({type(error).__name__}: {error}). Check address, "
                "network and credentials, which come from storage_options or the environment."
            ) from error
        if not isinstance(error, OSError):
            raise
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreFull(
                f"no space left for {place}. What was written so far is kept: free some space and "
                "start the same run again; with resume=True it continues where it stopped."
            ) from error
        if isinstance(error, PermissionError) or error.errno == errno.EROFS:
            what = error.strerror or error
            cure = "Choose a store path in a folder you may write to."
            if remote:
                cure = "Check the credentials and the rights of this account."
            elif verb == "read":
                cure = "Ask its owner for the right to read it."
            raise StoreError(f"{place} cannot be {verb} ({what}). {cure}") from error
        if remote:
            raise StoreError(f"{place} cannot be {verb} ({error}).") from error
        if error.errno in (errno.ENOTDIR, errno.EEXIST):
            raise StoreError(
                f"{place} cannot be a folder: something on the way to it is a file."
            ) from error
        raise


def nearest(name: Any, known: Sequence) -> str:
    """The closest of the known names as a question, or nothing."""
    return did_you_mean(str(name), [str(entry) for entry in known])


def some(names: Sequence, limit: int = 6) -> str:
    """The first names of a list, in words."""
    shown = ", ".join(str(name) for name in names[:limit])
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown
