"""``mrnn ray caption`` and ``caption_dataset``. Light; Ray is imported when one of them is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mrnn_runtime import hookimpl

if TYPE_CHECKING:
    import typer

    from mrnn_ray.operator import caption_dataset

__all__ = ["caption_dataset"]

MRNN_CONTRACT = 1


@hookimpl
def mrnn_commands(app: typer.Typer) -> None:
    """Register ``caption`` and ``index`` below ``ray``."""
    import typer

    from mrnn_ray import command

    ray = typer.Typer(help="Captions on a Ray cluster.", no_args_is_help=True)
    ray.command(epilog=command.CAPTION_EXAMPLES)(command.caption)
    ray.command(epilog=command.INDEX_EXAMPLES)(command.index)
    app.add_typer(ray, name="ray")


def __getattr__(name: str) -> object:
    if name == "caption_dataset":
        from mrnn_ray.operator import caption_dataset

        return caption_dataset
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
