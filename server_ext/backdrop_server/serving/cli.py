"""`backdrop serve`, `backdrop demo` and `backdrop doctor`."""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from backdrop_server.errors import BackdropError, SetupError
from backdrop_server.serving.doctor import examine
from backdrop_server.serving.serve import (
    serve_gateway_alone,
    serve_with_own_triton,
    starting,
)
from backdrop_server.settings import load_settings
from backdrop_server.triton.demo import run_demo
from backdrop_server.triton.launcher import LaunchSettings

console = Console(stderr=True, highlight=False)

Repository = Annotated[Path, typer.Option(help="A built model repository (backdrop-export).")]
OwnRepository = Annotated[
    Path | None, typer.Option(help="A built model repository, for a Triton of our own.")
]
Port = Annotated[int | None, typer.Option(help="Port of the gateway.", min=0, max=65535)]
TritonPort = Annotated[int, typer.Option(help="0 takes any free port.", min=0, max=65535)]
Host = Annotated[str | None, typer.Option(help="Address that the gateway listens on.")]
TritonHost = Annotated[
    str,
    typer.Option(
        help="IPv4 address that Triton listens on. It has no keys: others than loopback only "
        "in a network that nobody else is in."
    ),
]
TritonUrl = Annotated[
    str | None, typer.Option(help="HTTP host:port of a Triton elsewhere; several with commas.")
]
Binary = Annotated[Path | None, typer.Option(help="This tritonserver instead of the one found.")]
DataDir = Annotated[Path | None, typer.Option(help="Folder of the database and results.")]
DatabaseUrl = Annotated[str | None, typer.Option(help="SQLAlchemy URL in place of SQLite.")]
PublicUrl = Annotated[str | None, typer.Option(help="How customers reach the gateway.")]
StartTimeout = Annotated[
    float,
    typer.Option(
        help="Seconds until the models must be ready; TensorRT's provider builds its engines then.",
        min=1,
    ),
]
LogFile = Annotated[Path | None, typer.Option(help="File for Triton's whole log.")]


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command()(serve)
    app.command()(demo)
    app.command()(doctor)


def serve(
    repository: OwnRepository = None,
    triton_url: TritonUrl = None,
    host: Host = None,
    port: Port = None,
    public_url: PublicUrl = None,
    data_dir: DataDir = None,
    database: DatabaseUrl = None,
    triton_host: TritonHost = "127.0.0.1",
    triton_http_port: TritonPort = 8000,
    triton_grpc_port: TritonPort = 8001,
    triton_metrics_port: TritonPort = 8002,
    tritonserver: Binary = None,
    log_file: LogFile = None,
    start_timeout: StartTimeout = 600.0,
) -> None:
    """Serve the REST API: the gateway and a Triton of its own, or one elsewhere (--triton-url).

    Every setting can also be in the environment (BACKDROP_PORT=8080) or in backdrop.toml; flags
    come first, then the environment, then the file. docs/gateway.md lists them.
    """
    flags = _given(
        triton_url=triton_url,
        host=host,
        port=port,
        public_url=public_url,
        data_dir=data_dir,
        database=database,
    )
    launch = None
    if repository is not None:
        launch = LaunchSettings(
            repository,
            triton_host,
            triton_http_port,
            triton_grpc_port,
            triton_metrics_port,
            tritonserver,
            log_file,
            start_timeout,
        )
    # SIGTERM takes the same way out as Ctrl-C, also where a shell had it ignored: nothing is left.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    try:
        _serve(flags, launch)
    except KeyboardInterrupt:
        console.print("stopped")
    except SetupError as error:
        _fail(str(error))


def _serve(flags: dict[str, Any], launch: LaunchSettings | None) -> None:
    settings = load_settings(flags)
    if settings.triton_url:
        serve_gateway_alone(settings, console)
    elif launch is None:
        raise SetupError("nothing to serve: give --repository, or --triton-url of a Triton")
    else:
        texts = {name: str(value) for name, value in flags.items()}
        serve_with_own_triton(launch, settings, texts, console)


def demo(
    repository: Repository,
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")],
    tritonserver: Binary = None,
    log_file: LogFile = None,
) -> None:
    """Start a Triton on free ports, send one request over gRPC and one over HTTP, stop it."""
    settings = LaunchSettings(
        repository,
        http_port=0,
        grpc_port=0,
        metrics_port=0,
        tritonserver=tritonserver,
        log_file=log_file,
    )
    try:
        with starting(settings, console) as server:
            run_demo(server, out, console)
    except KeyboardInterrupt:
        _fail("interrupted")
    except BackdropError as error:
        _fail(str(error))


def doctor(
    repository: OwnRepository = None,
    triton_url: TritonUrl = None,
    host: Host = None,
    port: Port = None,
    data_dir: DataDir = None,
    database: DatabaseUrl = None,
    tritonserver: Binary = None,
    as_json: Annotated[bool, typer.Option("--json", help="Findings as JSON.")] = False,
) -> None:
    """Say what is missing for serving, and how to get it. Exit status 1 when something is."""
    flags = _given(
        triton_url=triton_url, host=host, port=port, data_dir=data_dir, database=database
    )
    try:
        findings = examine(load_settings(flags), repository, tritonserver)
    except SetupError as error:
        _fail(str(error))
    if as_json:
        sys.stdout.write(json.dumps([dataclasses.asdict(found) for found in findings]) + "\n")
    else:
        table = Table("", "what", "finding", box=None)
        for found in findings:
            mark = "[green]ok[/]" if found.is_well else "[red]missing[/]"
            table.add_row(mark, escape(found.name), escape(found.text))
        Console(highlight=False).print(table)
    if not all(found.is_well for found in findings):
        raise typer.Exit(1)


def _given(**flags: Any) -> dict[str, Any]:
    return {name: value for name, value in flags.items() if value is not None}


def _fail(reason: str) -> NoReturn:
    console.print(f"[red]error:[/] {escape(reason)}", soft_wrap=True)
    sys.exit(1)
