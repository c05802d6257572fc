"""The life of a run: its root document, the processes that write it, and how they end."""

import datetime
import json
import logging
import uuid
from collections.abc import Mapping
from typing import Any

from fusionkit.store import provenance
from fusionkit.store.errors import RunMismatch, StoreError, explained, nearest, some
from fusionkit.store.layout import (
    FORMAT,
    FORMAT_VERSION,
    NOT_COMPARED,
)
from fusionkit.store.location import Location

logger = logging.getLogger("fusionkit.store")

SILENT_SECONDS = 600.0
"""A running process on another machine that has not written for this long is called silent."""

RESERVED = frozenset(
    {"format", "format_version", "status", "message", "started", "ended", "heartbeat", "progress"}
    | {"sessions", "pairs", "notice", "parameters", "recipe", "components", "seed", "device"}
    | {"notebook", "packages", "python", "machine", "git"}
)
"""Root attributes with a meaning of their own."""


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def surroundings() -> dict:
    """What a run is made with besides its parameters: versions, commit, machine."""
    return {
        "packages": provenance.package_versions(),
        "python": provenance.python_version(),
        "machine": provenance.machine(),
        "git": provenance.source_commit(),
    }


def begin(place: Location, described: dict, around: dict) -> dict:
    """The root document of a new run."""
    attributes = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "status": "running",
        "started": now(),
        "heartbeat": now(),
        **described,
        **around,
        "sessions": [],
    }
    logger.info("new run %s", place)
    return {"zarr_format": 3, "node_type": "group", "attributes": attributes}


def take_up(root: dict, described: dict) -> None:
    """Turn the root document of an earlier run into that of a running one."""
    attributes = root["attributes"]
    attributes["status"] = "running"
    attributes["heartbeat"] = now()
    for key in ("ended", "message"):
        attributes.pop(key, None)
    if "notebook" in described:
        attributes["notebook"] = described["notebook"]


def join(root: dict, device: str, around: dict) -> str:
    """Enter this process among those that write the run; returns the name of its session."""
    attributes = root["attributes"]
    me = provenance.this_process()
    for session in attributes["sessions"]:
        if "ended" in session:
            continue
        if (session["host"], session["pid"], session["born"]) == tuple(me.values()):
            session.update(ended=now(), status="replaced")
        elif provenance.is_alive(session) is False:
            session.update(ended=session["heartbeat"], status="stopped")
    session = {"id": uuid.uuid4().hex[:12], **me, "started": now(), "heartbeat": now()}
    # Only what differs from the beginning of the run, so a run of one go says everything once.
    today = {"device": device, **around}
    session.update({k: value for k, value in today.items() if value != attributes.get(k)})
    attributes["sessions"].append(session)
    return session["id"]


def leave(attributes: dict, own_id: str, status: str, message: str | None) -> dict:
    """Attributes after one session ended: the run ends with the last of those that write it."""
    sessions = [dict(session) for session in attributes["sessions"]]
    own = next((session for session in sessions if session["id"] == own_id), None)
    changes: dict[str, Any] = {"sessions": sessions, "heartbeat": now()}
    if own is None:  # another process replaced the run
        return {}
    own.update(ended=now(), heartbeat=now(), status=status)
    if message:
        own["message"] = message
        changes["message"] = message
    if any("ended" not in session and lives(session) for session in sessions):
        return changes
    beside = [s for s in sessions if s.get("ended", s["heartbeat"]) >= own["started"]]
    failed = [s for s in beside if s.get("status") != "complete" and s.get("status") != "replaced"]
    changes.update(status="failed" if failed else "complete", ended=now())
    if failed and "message" not in changes:
        reason = failed[-1].get("message", "it stopped without a word")
        changes["message"] = f"another process of this run: {reason}"
    return changes


def lives(session: dict) -> bool:
    """Whether a session without an end still writes, as far as can be told from here."""
    alive = provenance.is_alive(session)
    return _age(session["heartbeat"]) < SILENT_SECONDS if alive is None else alive


def _age(moment: str) -> float:
    """Seconds since a time stamp of a run."""
    then = datetime.datetime.fromisoformat(moment)
    return (datetime.datetime.now(datetime.UTC) - then).total_seconds()


def read_root(place: Location) -> dict | None:
    """The root document of a run; None for an empty place; an error for anything else."""
    try:
        with explained(place, "read"):
            root = place.read("zarr.json")
    except StoreError:
        raise
    except ValueError as error:
        raise StoreError(f"{place} is damaged: {error}") from error
    if root is None:
        return None
    attributes = root.get("attributes", {})
    if attributes.get("format") != FORMAT:
        raise StoreError(
            f"{place} is a Zarr store, but not a run of fusionkit (no attribute "
            f"format={FORMAT!r}). Nothing was touched; give the path of a run, or choose another "
            "one for a new run."
        )
    version = attributes.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise StoreError(
            f"{place} was written by a newer fusionkit: format {version}, and this one knows up "
            f"to {FORMAT_VERSION}. Upgrade fusionkit to open it."
        )
    return root


def compare(place: Location, attributes: dict, described: dict) -> None:
    """Refuse to continue a run that was asked for with other parameters or another recipe."""
    lines = []
    for part in ("parameters", "recipe"):
        there, here = _flat(attributes.get(part, {})), _flat(described[part])
        for key in sorted(there.keys() | here.keys()):
            if part == "parameters" and key.split(".")[0] in NOT_COMPARED:
                continue
            if there.get(key) != here.get(key):
                old, new = (json.dumps(d[key]) if key in d else "absent" for d in (there, here))
                lines.append(f"  {part}.{key}: stored {old}, asked for {new}")
    if lines:
        more = [f"  and {len(lines) - 12} more"] if len(lines) > 12 else []
        raise RunMismatch(
            "\n".join(
                [
                    f"{place} holds a run with other settings, so it cannot be resumed:",
                    *lines[:12],
                    *more,
                    "Give another store path, or resume=False to replace that run.",
                ]
            )
        )


def _flat(mapping: Mapping, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one level of dotted names."""
    flat = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping) and value:
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def clear(place: Location) -> None:
    """Remove a run so that a new one can begin; refuse for anything else and for a live run."""
    root = read_root(place)
    if root is None:
        return  # create_run refuses a folder with other things in it
    me = provenance.this_process()
    for session in root["attributes"].get("sessions", []):
        same = all(session.get(key) == value for key, value in me.items())
        if "ended" not in session and not same and lives(session):
            raise StoreError(
                f"{place} is being written by process {session['pid']} on {session['host']}; "
                "resume=False would remove it under its hands. Stop that process first."
            )
    logger.warning("resume=False: removing the earlier run %s", place)
    place.remove()


def existing(place: Location) -> dict:
    """The root document of a run that must be there."""
    if place.local is not None and place.local.is_file():
        raise StoreError(f"{place} is a file, not a stored run (a folder ending in .zarr).")
    root = read_root(place)
    if root is not None:
        return root
    with explained(place, "read"):
        there = place.exists()
    if there:
        raise StoreError(
            f"{place} is not a run of fusionkit: it has no zarr.json, "
            + (f"but {some(names)}." if (names := list(place.names())) else "and nothing else.")
        )
    text = f"no run at {place}."
    if place.local is not None and place.local.parent.is_dir():
        beside = [entry.name for entry in sorted(place.local.parent.glob("*.zarr"))]
        text += nearest(place.name, beside)
        if beside:
            text += f" That folder holds {some(beside)}."
    raise StoreError(text)


def notice(attributes: Mapping) -> str | None:
    """What a reader must know about a run that is not complete."""
    status = true_status(attributes)
    reason = f" ({attributes['message']})" if attributes.get("message") else ""
    return {
        "complete": None,
        "running": "this run is still being written; what is not there yet reads as NaN.",
        "stopped": "this run stopped without a word; what it did not reach reads as NaN.",
        "silent": "this run has not given a sign of life for over ten minutes; "
        "what it did not reach reads as NaN.",
        "failed": f"this run failed{reason}; what it did not reach reads as NaN.",
    }[status]


def true_status(attributes: Mapping) -> str:
    """``complete``, ``failed`` or ``running`` as recorded; of a ``running`` one whose process is
    gone ``stopped``, and of one on another machine that says nothing ``silent``."""
    status = attributes.get("status", "failed")
    if status != "running":
        return status
    open_ = [session for session in attributes.get("sessions", []) if "ended" not in session]
    if any(lives(session) for session in open_):
        return "running"
    return "silent" if any(provenance.is_alive(s) is None for s in open_) else "stopped"


def is_written_here(attributes: Mapping) -> bool:
    """Whether this very process is writing the run."""
    me = provenance.this_process()
    return attributes.get("status") == "running" and any(
        "ended" not in session and all(session.get(k) == v for k, v in me.items())
        for session in attributes.get("sessions", [])
    )
