"""What can go wrong in a way the user can mend. Each error says what was asked and what to do.

``status`` is the exit status of the command line: 2 where the request was wrong, 1 where the work
failed. Every error is built from its message alone and carries its facts as attributes, so it
survives pickling between processes.
"""

from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches


class FusionkitError(Exception):
    """Base of everything raised for the user to read."""

    status = 1


class BadRequest(FusionkitError, ValueError):
    """A parameter, option or value that does not fit.

    ``asked`` is what was given, ``known`` the valid names, where there are such.
    """

    status = 2

    def __init__(self, message: str, *, asked: str = "", known: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.asked = asked
        self.known = tuple(known)


class UnknownComponent(FusionkitError, LookupError):
    """No plugin offers a component of that name. Attributes ``kind``, ``name``, ``known``."""

    status = 2

    def __init__(
        self, message: str, *, kind: str = "", name: str = "", known: Iterable[str] = ()
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.name = name
        self.known = tuple(known)


class DuplicateComponent(FusionkitError):
    """One name, several owners. ``claimants`` are ``(plugin, distribution, version)`` triples.

    ``kind`` is a kind of component, or ``plugin`` where two entry points share a name.
    """

    status = 2

    def __init__(
        self,
        message: str,
        *,
        kind: str = "",
        name: str = "",
        claimants: Iterable[tuple[str, str, str]] = (),
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.name = name
        self.claimants = tuple(claimants)


class BrokenPlugin(FusionkitError):
    """A plugin, or some of its hooks, that cannot be used; the rest of the bench works.

    ``problems`` are one-line texts, ``traceback`` the long form, and ``loaded`` says whether the
    plugin's other hooks are in use.
    """

    def __init__(
        self,
        message: str,
        *,
        plugin: str = "",
        distribution: str = "",
        version: str = "",
        loaded: bool = False,
        problems: Iterable[str] = (),
        traceback: str = "",
    ) -> None:
        super().__init__(message)
        self.plugin = plugin
        self.distribution = distribution
        self.version = version
        self.loaded = loaded
        self.problems = tuple(problems)
        self.traceback = traceback


class MissingWeights(FusionkitError):
    """Weights that are needed are not there; the message says what makes or provides them."""

    status = 2


class TrainingDiverged(FusionkitError):
    """A loss is no longer a finite number."""


class Interrupted(FusionkitError):
    """Training was stopped by a signal after saving its state."""

    status = 130


def nearest(name: str, known: Iterable[str], count: int = 1) -> list[str]:
    """The most similar of the known names, best first; empty when nothing is similar.

    Upper and lower case, hyphens and underscores count as the same; of names that differ in
    nothing else (the metrics ``EN`` and ``en``) the one written more like ``name`` is taken.
    """
    plain: dict[str, list[str]] = {}
    for candidate in known:
        plain.setdefault(_plain(candidate), []).append(candidate)
    return [
        max(plain[match], key=lambda candidate: SequenceMatcher(None, candidate, name).ratio())
        for match in get_close_matches(_plain(name), plain, n=count)
    ]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`` Did you mean 'x'?``, with the space before it, or nothing."""
    near = nearest(name, known, count=2)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")
