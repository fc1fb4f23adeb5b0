"""``backdrop bench``: how long requests take on a running server at a load, and what they cost."""

from __future__ import annotations

import itertools
import json
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.table import Table

from backdrop_client.cli_console import EXITS, FAILED, console, fail, one_sentence
from backdrop_client.client import Backdrop
from backdrop_client.load import Outcome, offered, percentile, poisson, saturated

Source = Annotated[str, typer.Argument(metavar="SOURCE", help="The product: a picture file.")]
Ref = Annotated[str, typer.Option("--ref", help="The wanted surroundings: a picture file.")]
Prompt = Annotated[str, typer.Option("--prompt", "-p", help="The wanted scene in words.")]
Rate = Annotated[
    float | None,
    typer.Option(help="Requests a second, arriving at random (Poisson).", min=0.001, max=1000),
]
InFlight = Annotated[
    int, typer.Option(help="Without --rate: so many requests at work at a time.", min=1, max=512)
]
Seconds = Annotated[float, typer.Option(help="For how long.", min=1)]
Steps = Annotated[int, typer.Option("--num-inference-steps", "--steps", min=20, max=100)]
Scheduler = Annotated[str, typer.Option(help="The sampler.")]
PerHour = Annotated[
    float | None, typer.Option("--price-per-hour", help="Of the machine, to tell the cost.", min=0)
]
Seed = Annotated[int, typer.Option(help="Of the arrivals and the requests.", min=0)]
AsJson = Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")]
Triton = Annotated[
    str | None, typer.Option(help="host:port of a Triton's gRPC, in place of the gateway.")
]
Url = Annotated[str | None, typer.Option(help="The gateway (BACKDROP_URL, else 127.0.0.1:8080).")]


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(epilog=EXITS)(bench)


def bench(
    source: Source,
    ref_image: Ref,
    prompt: Prompt,
    rate: Rate = None,
    in_flight: InFlight = 8,
    seconds: Seconds = 60.0,
    num_inference_steps: Steps = 25,
    scheduler: Scheduler = "DPM2 Karras",
    price_per_hour: PerHour = None,
    seed: Seed = 0,
    as_json: AsJson = False,
    triton: Triton = None,
    url: Url = None,
) -> None:
    """Send equal requests to a running server and tell latencies, pictures a second and cost.

    The gateway bills them. Latency counts from a request's arrival.
    """
    fields: dict[str, Any] = {
        "image": source,
        "ref_image": ref_image,
        "prompt": prompt,
        "num_inference_steps": num_inference_steps,
        "scheduler": scheduler,
    }
    with (
        one_sentence("interrupted"),
        Backdrop.triton(triton) if triton is not None else Backdrop(url, retries=0) as client,
    ):
        client.replace(**fields, seed=seed)  # warm-up; a wrong request or key ends here

        def send(request: Mapping[str, Any]) -> Mapping[str, Any]:
            return client.replace(**request).report

        requests = _requests(fields, seed)
        with console.status(f"sending requests for {seconds:.0f} s"):
            if rate is None:
                outcomes = saturated(send, requests, in_flight, seconds)
            else:
                outcomes = offered(send, requests, poisson(rate, seconds, seed))
    if not outcomes:
        fail(f"no request came in {seconds:.0f} s; take a higher --rate or more --seconds", FAILED)
    _tell(figures_of(outcomes, seconds, price_per_hour), as_json=as_json)


def _requests(fields: Mapping[str, Any], seed: int) -> Iterator[Mapping[str, Any]]:
    draw = random.Random(seed)  # noqa: S311 (no secret)
    for _ in itertools.count():
        yield {**fields, "seed": draw.randrange(2**31)}


def figures_of(
    outcomes: Sequence[Outcome], seconds: float, price_per_hour: float | None
) -> dict[str, Any]:
    """Figures of a run of ``seconds`` by name; what cannot be told is None."""
    good = [outcome for outcome in outcomes if outcome.error is None]
    latencies = [outcome.latency for outcome in good]
    span = max([seconds, *(outcome.ended for outcome in good)])
    rate = len(good) / span
    billed = [float(outcome.report["seconds_billed"]) for outcome in good]
    return {
        "requests": len(outcomes),
        "refused": sum(outcome.refused for outcome in outcomes),
        "failed": sum(o.error is not None and not o.refused for o in outcomes),
        "errors": sorted({str(o.error) for o in outcomes if o.error and not o.refused})[:3],
        **{f"p{n}_seconds": percentile(latencies, n / 100) if good else None for n in (50, 95, 99)},
        "pictures_per_second": rate,
        "seconds_billed_per_picture": sum(billed) / len(good) if good else None,
        "dollars_per_1000_pictures": 1000 * price_per_hour / 3600 / rate
        if good and price_per_hour is not None
        else None,
    }


def _tell(figures: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(figures) + "\n")
        return
    table = Table(show_header=False)
    for name, value in figures.items():
        if value not in (None, []):
            shown = f"{value:.3f}" if isinstance(value, float) else str(value)
            table.add_row(name.replace("_", " "), shown)
    console.print(table)
