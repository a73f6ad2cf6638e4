"""``mrnn models`` and ``mrnn verify``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from mrnn_runtime.bundle.loading import load_bundle
from mrnn_runtime.cli import options, output
from mrnn_runtime.errors import MrnnError
from mrnn_runtime.plugins.manager import manager
from mrnn_runtime.plugins.models import default_model, find_model


def models(
    as_json: options.Json = False,
) -> None:
    """List the installed models, and what each costs.

    An asterisk marks the one that is used without --model. The version is the model's own, beside
    that of its package. MB is what it takes on disk, its
    references included. Behind int8 stands how many times faster than in fp32 it was where it was
    made; mrnn bench measures a model where you are.
    """
    plugins = manager()
    usable = plugins.components("models")
    default = default_model()
    records = [
        {
            "name": component.name,
            "summary": component.summary,
            "dist": report.dist,
            "version": report.version,
            "default": component.name == default,
            **_cost(component.name),
        }
        for report in plugins.report()
        for kind, component in report.components
        if kind == "models" and component.name in usable
    ]
    records.sort(key=lambda record: str(record["name"]))
    if as_json:
        typer.echo(json.dumps(records, indent=1))
    elif records:
        output.table(
            ["name", "", "version", "package", "precision", "MB", "summary"],
            [
                [
                    str(record["name"]),
                    "*" if record["default"] else "",
                    str(record["model_version"]),
                    f"{record['dist']} {record['version']}",
                    str(record["precision"]) + (f" x{record['speed']}" if record["speed"] else ""),
                    str(record["megabytes"]),
                    str(record["summary"]),
                ]
                for record in records
            ],
        )
    if not records:
        output.warn("no model is installed; pip install mrnn-everyday")


def _cost(name: str) -> dict[str, str | float | None]:
    """Return version and precision of a model, MB on disk, and speed as a multiple of fp32's."""
    try:
        bundle = load_bundle(find_model(name))
    except MrnnError as error:  # the others are listed all the same
        output.complain(error)
        return {"model_version": "?", "precision": "?", "megabytes": None, "speed": None}
    speed = None
    match bundle.training:
        case {"quantized": {"speed": float(measured)}}:
            speed = round(measured, 1)
    size = sum(fact.bytes for fact in bundle.files.values())
    return {
        "model_version": bundle.version,
        "precision": bundle.precision,
        "megabytes": round(size / 1e6, 1),
        "speed": speed,
    }


def verify(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A name, a bundle's folder, or a file of mrnn flatten."
        ),
    ],
    provider: options.Provider = "auto",
) -> None:
    """Check that a model is whole and computes as at export.

    Its files are compared with their checksums, and what it computes with what was recorded when
    it was exported. Exit 3 where one of them differs by more than its precision allows.
    """
    from mrnn_runtime.captioner import load
    from mrnn_runtime.engine.flat import open_flat
    from mrnn_runtime.engine.golden import replay_golden

    if model.endswith(".onnx"):
        flat = open_flat(Path(model), provider)
        report, ran_on = flat.replay(), flat.session.provider
        name, version = (flat.facts.get(f"mrnn.{fact}", "") for fact in ("name", "version"))
    else:
        loaded = load(model, provider=provider)
        report = replay_golden(loaded.bundle, loaded.encoder, loaded.model)
        name, version, ran_on = loaded.bundle.name, loaded.bundle.version, loaded.encoder.provider
    typer.echo(f"{name} {version} on {ran_on}")
    rows = [(name, f"{difference:.1e}") for name, difference in report.differences.items()]
    output.table(("output", "difference"), rows)
    typer.echo(f"{'ok' if report.ok else 'FAILED'}: allowed {report.tolerance:g}")
    if not report.ok:
        raise typer.Exit(output.ENVIRONMENT)
