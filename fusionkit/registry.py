"""Find plugins, build components by name, explain a name that is missing.

pluggy marks and validates hooks; what it leaves to its host is done here: one broken plugin never
costs another, a misspelt hook is an error, two owners of a name are told apart instead of one
silently winning. A registry is made by whoever needs one and passed on; there is no global one.
"""

import inspect
import logging
import os
import re
import sys
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import EntryPoint
from textwrap import fill
from time import perf_counter
from traceback import format_exception
from typing import Any

import pluggy

from fusionkit.discovery import ONLY, Selection, find, owner, source_of, unmet_host
from fusionkit.errors import (
    BadRequest,
    BrokenPlugin,
    DuplicateComponent,
    UnknownComponent,
    did_you_mean,
    nearest,
)

KINDS = {
    "encoder": "encoders",
    "modulation": "modulations",
    "loss": "losses",
    "metric": "metrics",
    "preset": "presets",
    "network": "networks",
    "recipe": "recipes",
    "guide": "guides",
    "captioner": "captioners",
    "degradation": "degradations",
    "dataset": "datasets",
}
"""Kinds of component and their plurals; the hook of a kind is ``fusionkit_<plural>``."""

HOOKS = {f"fusionkit_{plural}": kind for kind, plural in KINDS.items()}

SLOW_SECONDS = 5.0
"""A plugin that takes longer to load is remarked on."""

_SOURCE = re.compile(r"Sources?:\s*(.+?)\s*(?:\n\s*\n|\Z)", re.DOTALL)
_log = logging.getLogger("fusionkit")
_said: set[str] = set()
"""Lines this process has logged: a run makes several registries, each fault is told once."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A component on offer: what builds it and whose it is."""

    kind: str
    name: str
    factory: Callable[..., Any]
    plugin: str
    distribution: str = ""
    version: str = ""

    @property
    def summary(self) -> str:
        """First line of the factory's docstring; empty where it has none of its own."""
        described = inspect.isclass(self.factory) or inspect.isroutine(self.factory)
        doc = self.factory.__doc__ if described else None
        return doc.strip().splitlines()[0].strip() if doc and doc.strip() else ""

    @property
    def paper(self) -> str:
        """Whose idea it is: see :func:`attribution`; a recipe and a preset say it themselves."""
        said = ""
        if self.kind in ("recipe", "preset") and not getattr(self.factory, "paper", None):
            try:
                built = self.factory()
            except Exception:  # a listing describes; whoever builds the recipe meets the error
                return ""
            said = _words(getattr(built, "paper", None) or getattr(built, "source", None))
        return said or attribution(self.factory)

    @property
    def needs(self) -> str:
        """What it asks for: ``needs`` of the factory, comma-separated."""
        return _words(getattr(self.factory, "needs", None))


class Registry:
    """Everything the loaded plugins offer.

    ``Registry()`` is empty and discovers nothing, which is what a test wants;
    :meth:`from_environment` loads what is installed.

    Attributes:
        broken: plugin name -> :class:`~fusionkit.errors.BrokenPlugin`; its ``loaded`` says whether
            the healthy rest of that plugin is in use.
        blocked: plugin name -> the variable that left it out.
        conflicts: ``(kind, name)`` -> :class:`~fusionkit.errors.DuplicateComponent`; the kind is
            ``plugin`` where two distributions use one entry-point name.
        warnings: plugin name -> remarks on things that look like mistakes.
        seconds: plugin name -> what importing it and asking its hooks took.
        selection: the environment variables that chose plugins, for the record of a run.
    """

    def __init__(self) -> None:
        self.broken: dict[str, BrokenPlugin] = {}
        self.blocked: dict[str, str] = {}
        self.conflicts: dict[tuple[str, str], DuplicateComponent] = {}
        self.warnings: dict[str, list[str]] = {}
        self.seconds: dict[str, float] = {}
        self.selection: dict[str, str] = {}
        self._owners: dict[str, tuple[str, str]] = {}  # plugin -> distribution, version
        self._entries: dict[str, dict[str, Entry]] = {kind: {} for kind in KINDS}
        self._sources: dict[str, dict[str, Any]] = {}
        self._raise = False

    @cached_property
    def _manager(self) -> pluggy.PluginManager:
        from fusionkit import hookspecs

        manager = pluggy.PluginManager("fusionkit")
        manager.add_hookspecs(hookspecs)
        return manager

    # Filling

    @classmethod
    def from_environment(cls) -> "Registry":
        """Every installed plugin, sorted by name; what fails is in :attr:`broken`.

        Reads three variables. ``FUSIONKIT_PLUGINS=a,b`` loads only those (empty: none) and
        ``FUSIONKIT_BLOCK=a`` leaves those out; both take names of plugins or of distributions.
        ``FUSIONKIT_RAISE=1`` raises the first fault instead of recording it.
        """
        registry = cls()
        registry._raise = os.environ.get("FUSIONKIT_RAISE", "") not in ("", "0")
        import fusionkit.protocols  # noqa: F401  so that torch is not counted as a plugin's time

        selection = Selection.from_environment()
        registry.selection = selection.variables
        found = find(selection)
        for variable, name, hint in found.missing:
            text = f"{variable} names it, but it is not installed.{hint}"
            if variable == ONLY:
                registry._record(name, text)
            else:
                registry._remark(name, text)
        registry.blocked = dict(found.left_out)
        for name, points in found.points.items():
            if len(points) > 1:
                registry._record_ambiguous(name, points)
            else:
                registry._load(points[0])
        return registry

    def register(
        self,
        plugin: object,
        name: str,
        *,
        distribution: str = "",
        version: str = "",
        seconds: float = 0.0,
    ) -> None:
        """Take in a module or object that answers hooks.

        A fault of the plugin does not raise: it is logged, recorded in :attr:`broken`, and what
        else the plugin offers is taken. ``seconds`` is what importing it took.

        Raises:
            BadRequest: a plugin of this name, or this object under another name, is there already.
        """
        if name in self._owners:
            raise BadRequest(f"a plugin called {name!r} is registered already.", asked=name)
        if (other := self._manager.get_name(plugin)) is not None:
            raise BadRequest(f"plugin {name!r} is registered already, as {other!r}.", asked=name)
        started = perf_counter()
        self._owners[name] = (distribution, version or str(getattr(plugin, "__version__", "")))
        self._remark_unmarked(plugin, name)
        try:
            self._manager.register(plugin, name)
        except Exception as error:  # an argument no hook has, a wrapper that is no generator
            if self._manager.has_plugin(name):  # older pluggy keeps half of what it refused
                self._manager.unregister(name=name)
            self._record(name, _one_line(error), error)
        for hook, kind in HOOKS.items():
            for implementation in getattr(self._manager.hook, hook).get_hookimpls():
                if implementation.plugin_name == name:
                    self._take(name, kind, hook, implementation.function)
        self._remark_unknown(plugin, name)
        self.seconds[name] = seconds + perf_counter() - started

    def _load(self, point: EntryPoint) -> None:
        name, (distribution, version) = point.name, owner(point)
        if unmet := unmet_host(point):
            self._record(name, unmet, None, distribution, version)
            return
        started = perf_counter()
        try:
            plugin = point.load()
        except (Exception, SystemExit) as error:
            self.seconds[name] = perf_counter() - started
            self._record(name, _one_line(error), error, distribution, version)
            return
        seconds = perf_counter() - started
        if (other := self._manager.get_name(plugin)) is not None:
            text = f"{point.value} is loaded already, as plugin {other!r}"
            self._record(name, text, None, distribution, version)
        else:
            self.register(plugin, name, distribution=distribution, version=version, seconds=seconds)
            if self.seconds[name] > SLOW_SECONDS:
                self._remark(
                    name,
                    f"took {self.seconds[name]:.1f} s to load, which every command pays; import "
                    "what is heavy inside the functions that need it.",
                )

    def _take(self, plugin: str, kind: str, hook: str, function: Callable[[], object]) -> None:
        """Ask one implementation by itself, so that a fault has a name and costs nothing else."""
        try:
            answer = function()
            if not isinstance(answer, Mapping):
                raise TypeError(f"returned {type(answer).__name__}, not a mapping of factories")
            offered = dict(answer)
        except (Exception, SystemExit) as error:
            self._record(plugin, f"{hook}: {_one_line(error)}", error)
            return
        for name, factory in offered.items():
            if isinstance(name, str) and name and callable(factory):
                self._claim(Entry(kind, name, factory, plugin, *self._owners[plugin]))
            else:
                self._record(plugin, f"{hook}: {name!r} is no name with a callable factory")

    def _claim(self, entry: Entry) -> None:
        """Enter a component, or note that its name has several owners and belongs to none."""
        key = (entry.kind, entry.name)
        claimants = [(entry.plugin, entry.distribution, entry.version)]
        if key in self.conflicts:
            claimants = [*self.conflicts[key].claimants, *claimants]
        elif (first := self._entries[entry.kind].pop(entry.name, None)) is not None:
            claimants = [(first.plugin, first.distribution, first.version), *claimants]
        else:
            self._entries[entry.kind][entry.name] = entry
            return
        owners = " and ".join(_signature(*c) for c in claimants)
        cures = " or ".join(f"FUSIONKIT_BLOCK={plugin}" for plugin, _, _ in claimants)
        self._record_conflict(
            f"{entry.kind} {entry.name!r} is offered by plugins {owners}. Leave one out: {cures}.",
            *key,
            claimants,
        )

    def _record_ambiguous(self, name: str, points: list[EntryPoint]) -> None:
        claimants = [(name, *owner(p)) for p in points]
        owners = " and ".join(
            f"{c[1] or 'an unnamed distribution'} {c[2]} ({p.value})"
            for c, p in zip(claimants, points, strict=True)
        )
        cures = " or ".join(f"FUSIONKIT_BLOCK={c[1]}" for c in claimants if c[1])
        self._record_conflict(
            f"plugin name {name!r} is used by distributions {owners}, so neither is loaded. "
            f"Uninstall one, or leave one out: {cures}.",
            "plugin",
            name,
            claimants,
        )

    def _record_conflict(
        self, message: str, kind: str, name: str, claimants: list[tuple[str, str, str]]
    ) -> None:
        conflict = DuplicateComponent(message, kind=kind, name=name, claimants=claimants)
        self.conflicts[kind, name] = conflict
        if self._raise:
            raise conflict
        _say(message)

    def _record(
        self,
        plugin: str,
        problem: str,
        error: BaseException | None = None,
        distribution: str = "",
        version: str = "",
    ) -> None:
        """Remember a fault of a plugin, adding to those already known of it."""
        loaded = plugin in self._owners and self._manager.has_plugin(plugin)
        if plugin in self._owners:
            distribution, version = self._owners[plugin]
        before = self.broken.get(plugin)
        problems = [*(before.problems if before else ()), problem]
        verdict = "works only in part" if loaded else "did not load"
        broken = BrokenPlugin(
            f"plugin {_signature(plugin, distribution, version)} {verdict}: {'; '.join(problems)}",
            plugin=plugin,
            distribution=distribution,
            version=version,
            loaded=loaded,
            problems=problems,
            traceback=(before.traceback if before else "")
            + ("".join(format_exception(error)) if error else ""),
        )
        self.broken[plugin] = broken
        if self._raise:
            raise broken from error
        _say(f"plugin {_signature(plugin, distribution, version)} {verdict}: {problem}")

    def _remark(self, plugin: str, text: str) -> None:
        self.warnings.setdefault(plugin, []).append(text)
        _say(f"plugin {plugin}: {text}")

    def _remark_unmarked(self, plugin: object, name: str) -> None:
        """pluggy passes over a function that is named like a hook but lacks the mark."""
        for attribute, member in _functions(plugin):
            unmarked = self._manager.parse_hookimpl_opts(plugin, attribute) is None
            if unmarked and not hasattr(member, "fusionkit_spec") and _similar_hook(attribute):
                self._remark(name, f"{attribute!r} looks like a hook but is not marked @hookimpl.")

    def _remark_unknown(self, plugin: object, name: str) -> None:
        """pluggy registers a hook nobody ever calls when its name is misspelt."""
        for caller in self._manager.get_hookcallers(plugin) or ():
            if caller.name not in HOOKS:
                near = _similar_hook(caller.name)
                hint = f" Did you mean {near!r}?" if near else f" Hooks: {', '.join(HOOKS)}."
                self._record(name, f"{caller.name!r} is not a hook.{hint}")

    # Asking

    def names(self, kind: str) -> list[str]:
        """Sorted names of a kind, without those that two plugins claim."""
        return list(self.entries(kind))

    def entries(self, kind: str) -> dict[str, Entry]:
        """Components of a kind by name, sorted, without those that two plugins claim."""
        return dict(sorted(self._entries[check_kind(kind)].items()))

    def entry(self, kind: str, name: str) -> Entry:
        """One component.

        Raises:
            DuplicateComponent: two plugins offer it; the message names both.
            UnknownComponent: none does; the message says what was probably meant.
        """
        entries = self.entries(kind)
        if (kind, name) in self.conflicts:
            raise copy(self.conflicts[kind, name])
        if name not in entries:
            raise UnknownComponent(self._explain(kind, name), kind=kind, name=name, known=entries)
        return entries[name]

    def create(self, kind: str, name: str, **options: Any) -> Any:
        """Build a component.

        Raises:
            BadRequest: its factory does not take one of the options, or needs one not given.
            DuplicateComponent, UnknownComponent: as :meth:`entry`.
        """
        factory = self.entry(kind, name).factory
        check_options(f"{kind} {name!r}", factory, options)
        return factory(**options)

    def accepts(self, kind: str, name: str, parameter: str) -> bool:
        """Whether the factory spells out this parameter.

        ``**options`` alone does not count: nobody is handed what they did not ask for by name.
        """
        parameter_ = (_parameters(self.entry(kind, name).factory) or {}).get(parameter)
        return parameter_ is not None and parameter_.kind in _BY_NAME

    def provenance(self, kind: str, name: str) -> dict[str, Any]:
        """Whose code a component is: ``plugin``, ``distribution``, ``version``, ``editable``.

        For an editable install in a git checkout also ``commit`` and ``dirty``, which says whether
        there were changes beside it; a commit alone would mislead.
        """
        entry = self.entry(kind, name)
        return {
            "plugin": entry.plugin,
            "distribution": entry.distribution,
            "version": entry.version,
            **self._source(entry.distribution),
        }

    def describe(self) -> list[dict[str, Any]]:
        """One row per component, then one per plugin (kind ``plugin``), all with the same keys.

        ``status`` is ``ok``, ``conflict``, ``blocked``, ``partial`` or ``broken``; ``error`` says
        why and ``traceback`` at length; ``seconds`` is what a plugin cost.
        """
        rows = [
            _row(e.kind, e.name, e.plugin, e.distribution, e.version)
            | {"paper": e.paper, "needs": e.needs, "summary": e.summary}
            for kind in KINDS
            for e in self.entries(kind).values()
        ]
        for (kind, name), conflict in self.conflicts.items():
            rows += [
                _row(kind, name, *claimant) | {"status": "conflict", "error": str(conflict)}
                for claimant in conflict.claimants
            ]
        plugins = {*self._owners, *self.broken, *self.blocked, *self.warnings}
        for name in sorted(plugins):
            distribution, version = self._owners.get(name, ("", ""))
            row = _row("plugin", name, name, distribution, version)
            row |= {"seconds": round(self.seconds.get(name, 0.0), 3)}
            row |= {"warnings": self.warnings.get(name, [])}
            if name in self.blocked:
                row |= {"status": "blocked", "error": f"left out by {self.blocked[name]}"}
            elif name in self.broken:
                broken = self.broken[name]
                row |= {
                    "status": "partial" if broken.loaded else "broken",
                    "distribution": broken.distribution,
                    "version": broken.version,
                    "error": "; ".join(broken.problems),
                    "traceback": broken.traceback,
                }
            rows.append(row | self._source(row["distribution"]))
        return rows

    def _explain(self, kind: str, name: str) -> str:
        """What was asked for, what was probably meant, what exists, and what is broken."""
        known = self._entries[kind]
        lines = [f"no {kind} is called {name!r}.{did_you_mean(name, known)}"]
        if homes := [other for other in KINDS if name in self._entries[other]]:
            lines[0] += f" There is a {' and a '.join(homes)} of that name."
        for plugin, broken in self.broken.items():
            if name == plugin or name.startswith(f"{plugin}-"):
                lines.append(f"{name!r} looks like one of plugin {plugin!r}'s: {broken}")
        lines += _catalogue(kind, self.entries(kind))
        if self.broken:
            lines.append("Not working, so their names may be missing here:")
            lines += [f"  {p:<24} {'; '.join(b.problems)}" for p, b in self.broken.items()]
        if self.blocked:
            lines.append("Left out: " + ", ".join(f"{p} ({v})" for p, v in self.blocked.items()))
        lines += [str(c) for (k, _), c in self.conflicts.items() if k == "plugin"]
        return "\n".join(lines)

    def _source(self, distribution: str) -> dict[str, Any]:
        """Whether a distribution is installed editable and, if so, the state of its checkout."""
        if distribution not in self._sources:
            self._sources[distribution] = source_of(distribution)
        return self._sources[distribution]


def check_kind(kind: str) -> str:
    """The kind itself, or BadRequest with the nearest one."""
    if kind not in KINDS:
        raise BadRequest(
            f"no kind of component is called {kind!r}.{did_you_mean(kind, KINDS)} "
            f"Kinds: {', '.join(KINDS)}.",
            asked=kind,
            known=KINDS,
        )
    return kind


_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def _parameters(factory: Callable[..., Any]) -> Mapping[str, inspect.Parameter] | None:
    """Parameters of a factory, or None where Python cannot tell (some built-ins)."""
    try:
        return inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return None


def check_options(what: str, factory: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """BadRequest with the nearest name where a factory does not take, or lacks, an option."""
    parameters = _parameters(factory)
    if parameters is None:
        return
    takes = [name for name, p in parameters.items() if p.kind in _BY_NAME]
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    choice = f" It takes {', '.join(takes)}." if takes else " It takes no options."
    for name in () if takes_any else options:
        if name not in takes:
            raise BadRequest(
                f"{what} has no option {name!r}.{did_you_mean(name, takes)}{choice}",
                asked=name,
                known=takes,
            )
    missing = [
        name
        for name in takes
        if name not in options and parameters[name].default is inspect.Parameter.empty
    ]
    if missing:
        raise BadRequest(f"{what} needs {' and '.join(missing)}.{choice}", known=takes)


def _catalogue(kind: str, entries: Mapping[str, Entry]) -> list[str]:
    """The names on offer: with their owners while they fit a screen, else names alone."""
    if not entries:
        return [f"No loaded plugin offers a {kind}."]
    if len(entries) > 16:
        names = ", ".join(entries)
        return [
            f"Installed {KINDS[kind]}:",
            fill(names, 96, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False),
        ]
    return [f"Installed {KINDS[kind]}:"] + [
        f"  {name:<24} {entry.plugin} {entry.version}".rstrip() for name, entry in entries.items()
    ]


def _row(kind: str, name: str, plugin: str, distribution: str, version: str) -> dict[str, Any]:
    return {
        "kind": kind,
        "name": name,
        "plugin": plugin,
        "distribution": distribution,
        "version": version,
        "status": "ok",
        "paper": "",
        "needs": "",
        "summary": "",
        "error": "",
        "traceback": "",
    }


def _similar_hook(name: str) -> str:
    """The hook that was probably meant, compared without the prefix they all share."""
    near = nearest(name.removeprefix("fusionkit_"), KINDS.values())
    return f"fusionkit_{near[0]}" if near else ""


def _functions(plugin: object) -> list[tuple[str, object]]:
    """Functions of a plugin whose names carry the host's prefix; properties are left alone."""
    found = []
    for name in dir(plugin):
        if name.startswith("fusionkit_"):
            member = inspect.getattr_static(plugin, name, None)
            if isinstance(member, (staticmethod, classmethod)):
                member = member.__func__
            if inspect.isroutine(member):
                found.append((name, member))
    return found


def _signature(plugin: str, distribution: str, version: str) -> str:
    """A plugin with where it came from, for messages."""
    origin = f"{distribution} {version}".strip()
    return f"{plugin} ({origin})" if origin else plugin


def attribution(described: Callable[..., Any]) -> str:
    """Whose idea something is, in one line; empty where nothing says so.

    The attribute ``paper`` or ``source`` of a class or function; else the paragraph that begins
    with ``Source:`` in its docstring, or in that of its module.
    """
    stated = getattr(described, "paper", None) or getattr(described, "source", None)
    if isinstance(stated, str | list | tuple):
        return _words(stated)
    module = sys.modules.get(getattr(described, "__module__", ""))
    for place in (described, module):
        found = _SOURCE.search(inspect.getdoc(place) or "")
        if found:
            return " ".join(found[1].split()).rstrip(".")
    return ""


def _words(value: object) -> str:
    """A text or a collection of texts as one line."""
    if value is None or callable(value) or isinstance(value, property):
        return ""
    if isinstance(value, (tuple, list, set, frozenset)):
        return ", ".join(str(v) for v in value)
    return str(value)


def _one_line(error: BaseException) -> str:
    """An exception on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _say(line: str) -> None:
    if line not in _said:
        _said.add(line)
        _log.warning("%s", line)
