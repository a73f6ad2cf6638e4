"""``mrnn serve``: the options, and what they stand for."""

from __future__ import annotations

import ipaddress
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mrnn_runtime import UsageError

EXAMPLES = """\b
mrnn serve
mrnn serve --model flickr8k --port 11434
MRNN_API_KEY=... mrnn serve --host 0.0.0.0 --log-format json
"""


class LogFormat(StrEnum):
    """How the line of a request is written."""

    TEXT = "text"
    JSON = "json"


def serve(
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME|DIR",
            help="A model to serve; several may be, and the first is the default.",
            show_default=False,
        ),
    ] = None,
    provider: Annotated[
        str,
        typer.Option(
            metavar="auto|cpu|cuda|tensorrt", help="Where to run. Only auto may fall back."
        ),
    ] = "auto",
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="Where to listen. Other machines need --api-key or --no-auth.",
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 is any that is free.")] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="MRNN_API_KEY",
            metavar="KEY",
            help="What clients must send: Authorization: Bearer KEY.",
            show_default=False,
        ),
    ] = None,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Let everybody who reaches the address in.")
    ] = False,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORIGIN",
            help="Whose web pages may read answers, for example https://photos.example.",
            show_default=False,
        ),
    ] = None,
    photos_folder: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            resolve_path=True,
            help="Below which /generate-caption (LibrePhotos) may name photos by path.",
            show_default=False,
        ),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(metavar="N", min=1, help="Photos worked on together, at most.")
    ] = 4,
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Batches at a time. Default: the cores, and 1 on a GPU.",
            show_default=False,
        ),
    ] = None,
    queue: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            help="Photos accepted and not answered yet; more are refused at once, with 503.",
        ),
    ] = 256,
    max_photos: Annotated[
        int, typer.Option(metavar="N", min=1, help="Photos in one request.")
    ] = 64,
    max_body: Annotated[int, typer.Option(metavar="MIB", min=1, help="Size of one request.")] = 64,
    max_pixels: Annotated[
        float, typer.Option(metavar="MILLIONS", min=0.1, max=128, help="Pixels of one photo.")
    ] = 64,
    memory: Annotated[
        int,
        typer.Option(
            metavar="MB",
            min=1,
            max=2**20,
            help="What photos that are decoded at a time may take; one that needs more fails.",
        ),
    ] = 1200,
    timeout: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            min=1,
            max=3600,
            help="In which a request must have arrived, and again be answered.",
        ),
    ] = 60,
    log_format: Annotated[
        LogFormat, typer.Option(help="Of the line on stderr for each request.")
    ] = LogFormat.TEXT,
) -> None:
    """Serve captions over HTTP.

    For the page at /, photo applications, and clients of Ollama and OpenAI; /openapi.json says
    what can be asked. Photos stay in memory and are never written to disk; no link is followed.
    """
    loopback = _is_loopback(host)
    if not loopback and not api_key and not no_auth:
        raise UsageError(
            f"{host} can be reached by other machines",
            hint="give --api-key KEY, or --no-auth where everybody may ask",
        )
    if api_key is not None and not (api_key.isascii() and api_key.strip() == api_key and api_key):
        raise UsageError("the API key must be ASCII without spaces at its ends")
    if photos_folder is not None and not photos_folder.is_dir():
        raise UsageError(f"{photos_folder} is no folder", hint="name the folder of the photos")
    if max_photos > queue:
        raise UsageError(f"a request of {max_photos} photos needs as long a queue, not {queue}")
    from mrnn_runtime.build import cores
    from mrnn_serve.app import Access, make_app
    from mrnn_serve.limits import Limits
    from mrnn_serve.observe import Metrics, log_json, log_text
    from mrnn_serve.server import listen, load_captioners
    from mrnn_serve.server import serve as run
    from mrnn_serve.service import Service

    socket = listen(host, port)  # before the models: it fails sooner
    captioners = load_captioners(model or [None], provider=provider, threads=1)
    on_cpu = all("CPU" in one.encoder.provider for one in captioners.values())
    service = Service(
        captioners,
        limits=Limits(
            body=max_body * 2**20,
            bodies=4 * max_body * 2**20,
            pixels=round(max_pixels * 1e6),
            memory=memory * 10**6,
            photos=max_photos,
            queue=queue,
            timeout=timeout,
        ),
        metrics=Metrics(),
        batch_size=batch_size,
        workers=workers or (cores() if on_cpu else 1),
        readers=cores(),
        photos_folder=photos_folder,
    )
    access = Access(api_key=api_key, loopback_only=loopback, cors_origins=cors_origin or ())
    log = log_json if log_format is LogFormat.JSON else log_text
    run(make_app(service, access, log), socket, grace=2 * timeout)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
