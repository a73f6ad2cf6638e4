"""``mrnn doctor``."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from mrnn_runtime.cli import output
from mrnn_runtime.plugins import manager

if TYPE_CHECKING:
    from mrnn_runtime.providers import ProbeResult


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
) -> None:
    """Say what works on this machine, and how to mend the rest.

    Every provider is tried with a tiny model, because what ONNX Runtime lists may not run. Exit 3
    where not even the CPU works.
    """
    from importlib.metadata import version

    from mrnn_runtime import __version__, providers

    wheels = {name: version(name) for name in providers.wheels()}
    probes = [providers.probe(word) for word in providers.PROVIDERS]
    models = list(manager().components("models"))
    works = [probe.word for probe in probes if probe.works]
    problems = _problems(list(wheels), probes, models)
    ready = "cpu" in works
    facts: dict[str, object] = {
        "mrnn-runtime": __version__,
        "python": f"{platform.python_version()} {platform.python_implementation()}",
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "onnxruntime": wheels,
        "providers": [asdict(probe) for probe in probes],
        "models": models,
        "problems": problems,
        "ready": ready,
    }
    if as_json:
        typer.echo(json.dumps(facts, indent=1))
    else:
        facts["onnxruntime"] = ", ".join(f"{name} {wheels[name]}" for name in wheels)
        facts["models"] = ", ".join(models)
        for name in ("mrnn-runtime", "python", "platform", "cpus", "onnxruntime", "models"):
            typer.echo(f"{name:14}{facts[name] or 'none'}")
        for probe in probes:
            typer.echo(f"{probe.word:14}{'works' if probe.works else f'no: {probe.detail}'}")
        for problem in problems:
            typer.echo(f"problem       {problem}")
        verdict = f"runs on {', '.join(works)}" if ready else "cannot caption"
        typer.echo(f"verdict       {verdict}")
    if not ready:
        raise typer.Exit(output.ENVIRONMENT)


def _problems(wheels: list[str], probes: list[ProbeResult], models: list[str]) -> list[str]:
    """Return what is wrong, each with its mend, one line each."""
    problems = []
    if len(wheels) > 1:
        problems.append(
            f"{' and '.join(wheels)} are both installed and overwrite each other: pip uninstall -y"
            f' {" ".join(wheels)}, then pip install "mrnn-runtime[cpu]" or "mrnn-runtime[gpu]"'
        )
    # That a provider is not in this build is no problem; that it is listed and does not run is one.
    problems += [
        f"{probe.word} does not work: {probe.detail}"
        for probe in probes
        if not probe.works and (probe.listed or probe.word == "cpu")
    ]
    if not models:
        problems.append("no model is installed: pip install mrnn-flickr8k, or name a folder")
    problems += [
        f"plugin {report.name} of {report.dist}: {report.error}"
        for report in manager().report()
        if report.error
    ]
    return problems
