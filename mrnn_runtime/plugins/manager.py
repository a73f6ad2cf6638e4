"""The plugin manager: who is installed, what they offer, who failed and why.

It is all or nothing per plugin: one that cannot be imported, breaks a rule or raises in a hook is
recorded as failed and offers nothing, and the others are not affected. Results are sorted by name,
so they never depend on the order in which plugins were found.
"""

from __future__ import annotations

import difflib
import importlib
import os
import traceback
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import pluggy

from mrnn_runtime.errors import PluginError, UsageError, describe
from mrnn_runtime.plugins import hookspecs
from mrnn_runtime.plugins.contracts import Component

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    import typer

Kind = Literal["backbones", "cells", "decoders", "models", "rerankers"]
Status = Literal["ok", "conflict", "failed", "disabled"]

KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class PluginReport:
    """What is known about one plugin.

    Attributes:
        name: the name of its entry point.
        dist: the distribution that brought it.
        version: that distribution's version.
        module: where its hooks are, as the entry point says.
        hooks: the hooks it implements, sorted.
        components: what it offers, sorted by kind and name.
        commands: the subcommands it brings, sorted; known once the command line is built.
        status: ``ok``; ``conflict`` where another plugin claims one of its names (the rest of it
            works); ``failed`` or ``disabled`` where it offers nothing.
        error: what went wrong, one line, or the empty string.
        traceback: where it went wrong, many lines, or the empty string.
    """

    name: str
    dist: str
    version: str
    module: str
    hooks: tuple[str, ...] = ()
    components: tuple[tuple[Kind, Component], ...] = ()
    commands: tuple[str, ...] = ()
    status: Status = "ok"
    error: str = ""
    traceback: str = ""

    @property
    def key(self) -> str:
        """A name that no other plugin has."""
        return f"{self.dist}:{self.name}"


class PluginManager:
    """The built-ins and every entry point of the group ``mrnn``, each admitted on its own."""

    def __init__(self, *, disabled: Collection[str] = (), strict: bool = False) -> None:
        """Find and admit all plugins.

        Args:
            disabled: names of plugins, or of distributions, to leave out.
            strict: raise at the first failure instead of recording it.

        Raises:
            PluginError: strict, and something is wrong with a plugin.
        """
        self._strict = strict
        self._disabled = frozenset(disabled)
        self._pluggy = pluggy.PluginManager(hookspecs.PROJECT)
        self._pluggy.add_hookspecs(hookspecs)
        self._reports = [self._admit(*source) for source in _sources()]
        self._refuse_clashes_if_strict()

    def report(self) -> list[PluginReport]:
        """Return what is known about each plugin, the built-ins first, the others by name."""
        errors: dict[str, list[str]] = {}
        for (kind, name), owners in self._claims().items():
            for owner in owners if len(owners) > 1 else ():
                errors.setdefault(owner.key, []).append(clash(kind, name, owners).message)
        return [
            replace(report, status="conflict", error="; ".join(errors[report.key]))
            if report.key in errors
            else report
            for report in self._reports
        ]

    def components(self, kind: Kind) -> dict[str, Component]:
        """Return what can be used of one kind, sorted by name; contested names are left out."""
        claims = self._claims()
        usable = {
            component.name: component
            for report in self._reports
            for its_kind, component in report.components
            if its_kind == kind and len(claims[_one(kind), component.name]) == 1
        }
        return dict(sorted(usable.items()))

    def load(self, kind: Kind, name: str) -> Any:  # noqa: ANN401 - each hook says what it must be
        """Import what is called ``name`` and return it.

        Raises:
            UsageError: nothing of this kind is called that.
            PluginError: two plugins claim the name, or the target does not load.
        """
        owners = self._claims().get((_one(kind), name), [])
        if not owners:
            raise UsageError(f"unknown {_one(kind)} {name!r}", hint=self._alternatives(kind, name))
        if len(owners) > 1:
            raise clash(_one(kind), name, owners)
        return self.components(kind)[name].load()

    def command_hooks(self) -> list[tuple[PluginReport, Callable[[typer.Typer], None]]]:
        """Return the plugins that bring commands, sorted by name, each with its hook."""
        return [
            (report, _command_hook(impl))
            for report in self._reports
            for impl in self._implementations(report, "mrnn_commands")
        ]

    def add_commands(self, report: PluginReport, names: Iterable[str]) -> None:
        """Record which commands a plugin's hook brought.

        Raises:
            PluginError: the manager is strict, and another plugin has brought one of them.
        """
        self._update(report, replace(report, commands=tuple(sorted(names))))
        self._refuse_clashes_if_strict()

    def fail(self, report: PluginReport, error: BaseException) -> None:
        """Record that a plugin failed after it was admitted; from now on it offers nothing.

        Raises:
            PluginError: the manager is strict.
        """
        self._update(report, self._failed(report, error))

    def _update(self, old: PluginReport, new: PluginReport) -> None:
        self._reports[self._reports.index(old)] = new

    def _admit(self, report: PluginReport, load: Callable[[], object]) -> PluginReport:
        if {report.name, report.dist} & self._disabled:
            return replace(report, status="disabled")
        try:
            plugin = load()
            _check_contract(plugin)
            self._pluggy.register(plugin, name=report.key)
            hooks = _hooks(self._pluggy, plugin)
            components = tuple(self._collect(report))
        except (Exception, SystemExit) as error:  # some packages exit where a dependency is missing
            return self._failed(report, error)
        return replace(report, hooks=hooks, components=components)

    def _failed(self, report: PluginReport, error: BaseException) -> PluginReport:
        text = describe(error)
        if self._strict:
            raise PluginError(f"plugin {report.name!r} of {report.dist}: {text}") from error
        if self._pluggy.has_plugin(report.key):
            self._pluggy.unregister(name=report.key)
        return replace(
            report,
            hooks=(),
            components=(),
            status="failed",
            error=text,
            traceback="".join(traceback.format_exception(error)),
        )

    def _collect(self, report: PluginReport) -> Iterator[tuple[Kind, Component]]:
        """Call the component hooks of one plugin."""
        for kind in KINDS:
            hook = f"mrnn_{kind}"
            offered: list[Component] = []
            for impl in self._implementations(report, hook):
                try:
                    offered.extend(cast("Iterable[Component]", impl.function()))
                except Exception as error:
                    raise PluginError(f"{hook} raised {describe(error)}") from error
            for component in offered:
                if not isinstance(component, Component):
                    raise PluginError(f"{hook} gave {component!r}, which is no Component")
            yield from ((kind, one) for one in sorted(offered, key=lambda one: one.name))

    def _implementations(self, report: PluginReport, hook: str) -> list[pluggy.HookImpl]:
        caller: pluggy.HookCaller = getattr(self._pluggy.hook, hook)
        return [impl for impl in caller.get_hookimpls() if impl.plugin_name == report.key]

    def _claims(self) -> dict[tuple[str, str], list[PluginReport]]:
        """Return who claims what, by kind (in the singular) and name."""
        claims: dict[tuple[str, str], list[PluginReport]] = {}
        for report in self._reports:
            for kind, component in report.components:
                claims.setdefault((_one(kind), component.name), []).append(report)
            for command in report.commands:
                claims.setdefault(("command", command), []).append(report)
        return claims

    def _refuse_clashes_if_strict(self) -> None:
        for (kind, name), owners in self._claims().items() if self._strict else ():
            if len(owners) > 1:
                raise clash(kind, name, owners)

    def _alternatives(self, kind: Kind, name: str) -> str:
        known = sorted(claimed for its_kind, claimed in self._claims() if its_kind == _one(kind))
        parts = [f"did you mean {close!r}?" for close in difflib.get_close_matches(name, known, 1)]
        parts.append(f"installed: {', '.join(known)}" if known else f"no {_one(kind)} is installed")
        failed = [report.name for report in self._reports if report.status == "failed"]
        if failed:
            parts.append(f"(failed: {', '.join(failed)}; see mrnn plugins)")
        return " ".join(parts)


def manager() -> PluginManager:
    """Return the manager of this process; it is made once.

    MRNN_DISABLE_PLUGINS (names, with commas between) and MRNN_STRICT_PLUGINS (anything but empty
    or 0) are read at every call, and a change of either makes a new manager.

    Raises:
        PluginError: MRNN_STRICT_PLUGINS is set and a plugin is not in order.
    """
    names = os.environ.get("MRNN_DISABLE_PLUGINS", "").split(",")
    disabled = frozenset(name.strip() for name in names if name.strip())
    return _manager(disabled, is_strict())


def is_strict() -> bool:
    """Say whether MRNN_STRICT_PLUGINS is set."""
    return os.environ.get("MRNN_STRICT_PLUGINS", "") not in ("", "0")


@cache
def _manager(disabled: frozenset[str], strict: bool) -> PluginManager:
    return PluginManager(disabled=disabled, strict=strict)


def clash(kind: str, name: str, owners: Sequence[PluginReport]) -> PluginError:
    """Return the error that says who claims one name."""
    who = " and ".join(f"{owner.dist} (plugin {owner.name})" for owner in owners)
    return PluginError(
        f"{kind} {name!r} is claimed by {who}",
        hint="uninstall one of them, or name it in MRNN_DISABLE_PLUGINS",
    )


def _sources() -> list[tuple[PluginReport, Callable[[], object]]]:
    """Return every plugin and how to import it: the built-ins, then the entry points by name."""
    from mrnn_runtime import __version__

    builtins = PluginReport("builtin", "mrnn-runtime", __version__, "mrnn_runtime.plugins.builtins")
    sources: list[tuple[PluginReport, Callable[[], object]]] = []
    for point in entry_points(group=hookspecs.PROJECT):
        dist = point.dist
        name, version = (dist.name, dist.version) if dist else ("unknown", "unknown")
        sources.append((PluginReport(point.name, name, version, point.value), point.load))
    sources.sort(key=lambda source: (source[0].name, source[0].dist))
    return [(builtins, lambda: importlib.import_module(builtins.module)), *sources]


def _check_contract(plugin: object) -> None:
    """Refuse a plugin that relies on what a later runtime has.

    Raises:
        PluginError: it was written for a newer contract, or says so in a way that means nothing.
    """
    written_for = getattr(plugin, "MRNN_CONTRACT", hookspecs.CONTRACT)
    if not isinstance(written_for, int):
        raise PluginError(f"MRNN_CONTRACT must be a whole number, not {written_for!r}")
    if written_for > hookspecs.CONTRACT:
        raise PluginError(
            f"it was written for contract {written_for}, this mrnn-runtime has contract"
            f" {hookspecs.CONTRACT}",
            hint="pip install --upgrade mrnn-runtime",
        )


def _hooks(plugins: pluggy.PluginManager, plugin: object) -> tuple[str, ...]:
    """Return the hooks that a registered plugin implements.

    Raises:
        PluginError: one is unknown, or there is none; pluggy itself ignores both in silence.
    """
    callers = plugins.get_hookcallers(plugin) or []
    known = [name for name in vars(hookspecs) if name.startswith("mrnn_")]
    for caller in callers:
        if not caller.has_spec():
            close = difflib.get_close_matches(caller.name, known, 1) or known
            raise PluginError(f"unknown hook {caller.name!r}", hint=f"use {', '.join(close)}")
    if not callers:
        raise PluginError("it implements no hook", hint="mark its functions with @hookimpl")
    return tuple(sorted(caller.name for caller in callers))


def _command_hook(impl: pluggy.HookImpl) -> Callable[[typer.Typer], None]:
    # A hook may leave out an argument that it does not need; pluggy has checked the names.
    function = cast("Callable[..., None]", impl.function)
    return function if impl.argnames else lambda app: function()


def _one(kind: Kind) -> str:
    return kind.removesuffix("s")
