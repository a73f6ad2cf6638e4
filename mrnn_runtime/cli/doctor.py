"""``mrnn doctor``."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from mrnn_runtime.cli import options, output
from mrnn_runtime.plugins.manager import manager

if TYPE_CHECKING:
    from mrnn_runtime.engine.providers import ProbeResult

# What makes a difference to ONNX Runtime, by the names that Linux has for it.
_FEATURES = {
    "avx2": "avx2",
    "avx512f": "avx512",
    "avx512_vnni": "avx512-vnni",
    "avx_vnni": "avx-vnni",
    "amx_int8": "amx-int8",
    "asimd": "neon",
    "asimddp": "dot-product",
    "i8mm": "i8mm",
    "sve": "sve",
}
_INT8 = ("avx512-vnni", "avx-vnni", "amx-int8", "dot-product", "i8mm")  # made for such products
# A caption with the largest image and beam that are usual takes less.
_LEAST_MB = 400


def doctor(
    as_json: options.Json = False,
) -> None:
    """Say what works on this machine, and how to fix the rest.

    Every provider is tried with a tiny model, because what ONNX Runtime lists may not run. Exit 3
    where not even the CPU works.
    """
    from importlib.metadata import version

    from mrnn_runtime import __version__
    from mrnn_runtime.engine import providers
    from mrnn_runtime.engine.sessions import cores

    wheels = {name: version(name) for name in providers.wheels()}
    probes = [providers.probe(word) for word in providers.PROVIDERS]
    models = list(manager().components("models"))
    works = [probe.word for probe in probes if probe.works]
    memory = _memory()
    problems = _problems(list(wheels), probes, models, memory.get("available", _LEAST_MB))
    ready = "cpu" in works
    facts: dict[str, object] = {
        "mrnn-runtime": __version__,
        "python": f"{platform.python_version()} {platform.python_implementation()}",
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": cores(),
        "cpu-features": _features(),
        "int8": _int8(_features()),
        "memory": memory,
        "onnxruntime": wheels,
        "models": models,
        "providers": [asdict(probe) for probe in probes],
        "problems": problems,
        "ready": ready,
    }
    if as_json:
        typer.echo(json.dumps(facts, indent=1))
    else:
        facts["onnxruntime"] = ", ".join(f"{name} {wheels[name]}" for name in wheels)
        facts["models"] = ", ".join(models)
        facts["cpu-features"] = " ".join(_features()) or "unknown"
        facts["memory"] = ", ".join(f"{value} MB {name}" for name, value in memory.items())
        for name in list(facts)[:10]:
            typer.echo(f"{name:14}{facts[name] or 'none'}")
        for probe in probes:
            typer.echo(f"{probe.word:14}{'works' if probe.works else f'no: {probe.detail}'}")
        for problem in problems:
            typer.echo(f"problem       {problem}")
        verdict = f"runs on {', '.join(works)}" if ready else "cannot caption"
        typer.echo(f"verdict       {verdict}")
    if not ready:
        raise typer.Exit(output.ENVIRONMENT)


def _problems(
    wheels: list[str], probes: list[ProbeResult], models: list[str], available: int
) -> list[str]:
    """Return what is wrong, each with what to do, one line each; ``available`` memory is in MB."""
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
        problems.append("no model is installed: pip install mrnn-everyday, or name a folder")
    problems += [
        f"plugin {report.name} of {report.dist}: {report.error}"
        for report in manager().report()
        if report.error
    ]
    if available < _LEAST_MB:
        problems.append(
            f"only {available} MB of memory are available: --decoder greedy --batch-size 1"
        )
    return problems


def _features() -> list[str]:
    """Return what the CPU can do that matters here; empty where the system does not say."""
    for line in _read("/proc/cpuinfo").splitlines():
        name, _, flags = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return [word for flag, word in _FEATURES.items() if flag in flags.split()]
    return []


def _int8(features: list[str]) -> str:
    """Say whether models in int8 are the better choice, by what the CPU can do."""
    if fast := [word for word in features if word in _INT8]:
        return f"the faster choice, for {fast[0]}; mrnn bench says by how much"
    if "avx2" in features:
        return "the faster choice: about twice as fast as fp32 was measured with avx2 alone"
    return "not measured on such a CPU; mrnn bench says what it gains"


def _memory() -> dict[str, int]:
    """Return the memory in MB, ``total`` and ``available``; empty where the system does not say."""
    lines = dict(line.split(":") for line in _read("/proc/meminfo").splitlines())
    kilobytes = {
        name: int(lines[key].split()[0])
        for name, key in (("total", "MemTotal"), ("available", "MemAvailable"))
        if key in lines
    }
    limit, used = (_read(f"/sys/fs/cgroup/memory.{what}").strip() for what in ("max", "current"))
    if limit.isdigit() and used.isdigit():
        kilobytes["total"] = min(kilobytes.get("total", int(limit)), int(limit) // 1024)
        free = (int(limit) - int(used)) // 1024
        kilobytes["available"] = min(kilobytes.get("available", free), free)
    return {name: value // 1024 for name, value in kilobytes.items()}


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
