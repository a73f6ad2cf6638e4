"""The six hooks. A plugin is a module (or object) that implements some of them with ``@hookimpl``.

It names itself in the entry-point group ``mrnn``::

    [project.entry-points.mrnn]
    my-plugin = "my_package.plugin"

Every hook but the last returns components: names with string targets, so that the hook module stays
light. It must import neither numpy nor onnxruntime nor torch; ``mrnn plugins --check`` says when it
does.

A plugin may say which version of these contracts it was written for, with ``MRNN_CONTRACT = 1`` in
its hook module; a runtime that is older than that refuses it and says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from collections.abc import Iterable

    import typer

    from mrnn_runtime.plugins.contracts import Component

PROJECT = "mrnn"
# Of the hooks and of the contracts behind them; it rises when plugins can rely on something new.
CONTRACT = 1

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def mrnn_backbones() -> Iterable[Component]:  # type: ignore[empty-body]
    """CNNs for training and export. Target: ``build(weights: str) -> Backbone``.

    ``weights`` is ``default``, ``random`` (seeded), a local file, or a name that the plugin knows.

    Example::

        @hookimpl
        def mrnn_backbones():
            return [Component("my-net", "my_package.nets:build_my_net", "MyNet, 512-d")]
    """


@hookspec
def mrnn_cells() -> Iterable[Component]:  # type: ignore[empty-body]
    """Recurrent cells for training and export. Target: ``(NetConfig) -> mrnn_exporters.nets.Cell``.

    Example::

        @hookimpl
        def mrnn_cells():
            return [Component("my-cell", "my_package.cells:MyCell", "a gated m-RNN")]
    """


@hookspec
def mrnn_decoders() -> Iterable[Component]:  # type: ignore[empty-body]
    """Searches for captions. Target: ``() -> Decoder``.

    Example::

        @hookimpl
        def mrnn_decoders():
            return [Component("my-search", "my_package.search:MySearch", "a search with lookahead")]
    """


@hookspec
def mrnn_rerankers() -> Iterable[Component]:  # type: ignore[empty-body]
    """Rerankers of candidates. Target: ``(bundle: Bundle, options: RerankOptions) -> Reranker``.

    One that also has ``explain`` (see ``Explainer``) can say which reference images voted.

    Example::

        @hookimpl
        def mrnn_rerankers():
            return [Component("shortest", "my_package.rerank:Shortest", "prefers short captions")]
    """


@hookspec
def mrnn_models() -> Iterable[Component]:  # type: ignore[empty-body]
    """Named bundles for ``--model NAME``. Target: ``() -> pathlib.Path``, the bundle's folder.

    Example::

        @hookimpl
        def mrnn_models():
            return [Component("my-model", "my_package:bundle_path", "captions of street scenes")]
    """


@hookspec
def mrnn_commands(app: typer.Typer) -> None:
    """Subcommands of ``mrnn``.

    Args:
        app: the application, to be given commands with ``app.command()``. Import what a command
            needs inside its function.

    Example::

        @hookimpl
        def mrnn_commands(app):
            @app.command()
            def hello() -> None:
                print("hello")
    """
