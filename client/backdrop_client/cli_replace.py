"""``backdrop replace`` and ``backdrop credits``."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from backdrop_client.batch import Submit, write_pictures
from backdrop_client.cli_batch import run_batch
from backdrop_client.cli_console import EXITS, console, one_sentence, progress_bar
from backdrop_client.client import Backdrop
from backdrop_client.errors import invalid
from backdrop_client.fields import FORMATS, is_link, suffix_of
from backdrop_client.http_calls import RETRIES
from backdrop_client.over_triton import TritonBackdrop
from backdrop_client.results import Progress, Result
from backdrop_client.rows import read_rows

Client = Backdrop | TritonBackdrop

Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="The product: a picture file or URL; or a folder of them, or a CSV file whose columns "
        "are fields (and `output`, the name of the result).",
    ),
]
Ref = Annotated[str | None, typer.Option("--ref", help="The wanted surroundings: file or URL.")]
Mask = Annotated[
    str | None,
    typer.Option("--mask", help="White = repaint, black = keep; file or URL, the photo's size."),
]
Prompt = Annotated[str | None, typer.Option("--prompt", "-p", help="The wanted scene in words.")]
Negative = Annotated[str | None, typer.Option(help="What must not be there.")]
Samples = Annotated[int | None, typer.Option(help="Pictures to make (1).", min=1, max=4)]
Scheduler = Annotated[
    str | None,
    typer.Option(
        help="The sampler (DPM2 Karras): DDIM, DPM Multi, DPM Single, Euler a, Euler, Heun, "
        "DPM2 a Karras, DPM2 Karras, LMS, PNDM, DDPM, UniPC."
    ),
]
Steps = Annotated[
    int | None,
    typer.Option("--num-inference-steps", "--steps", help="Its steps (25).", min=20, max=100),
]
Guidance = Annotated[
    float | None, typer.Option(help="How strongly the prompt is followed (7.5).", min=1, max=25)
]
Seed = Annotated[
    int | None,
    typer.Option(help="-1 is random (-1); sample k has seed + k.", min=-1, max=999_999_999_999_999),
]
Strength = Annotated[float | None, typer.Option(help="How much is repainted (1).", min=0, max=1)]
CnWeight = Annotated[
    float | None,
    typer.Option(help="How strongly the product's edges hold (0.9).", min=0, max=1),
]
IpWeight = Annotated[
    float | None,
    typer.Option(help="How strongly the reference picture speaks (0.5).", min=0, max=1),
]
Preserve = Annotated[
    bool | None, typer.Option(help="Put the product's own pixels back (they are by default).")
]
Shadow = Annotated[
    str | None, typer.Option(help="On the new ground (off): off, soft, hard, floating.")
]
ShadowDirection = Annotated[
    float | None,
    typer.Option(help="Where it falls, degrees clockwise from the right (60).", min=0, max=360),
]
ShadowStrength = Annotated[
    float | None, typer.Option(help="How much light it takes (0.5).", min=0, max=1)
]
Harmonize = Annotated[
    bool | None, typer.Option(help="Let the surroundings' light fall on the product's edge.")
]
Format = Annotated[
    str | None, typer.Option(help="jpeg, png or webp (by the suffix of --output, else jpeg).")
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", help="File of the result; folder of a batch (by default SOURCE-replaced)."
    ),
]
Concurrency = Annotated[int, typer.Option(help="Requests of a batch at once.", min=1, max=64)]
AsJson = Annotated[bool, typer.Option("--json", help="Print what came of it as JSON.")]
AsQuote = Annotated[bool, typer.Option("--quote", help="Say what it would cost; make nothing.")]
Triton = Annotated[
    str | None, typer.Option(help="host:port of a Triton's gRPC, in place of the gateway.")
]
Url = Annotated[str | None, typer.Option(help="The gateway (BACKDROP_URL, else 127.0.0.1:8080).")]
Retries = Annotated[
    int, typer.Option(help="Further tries when there is no answer, or the server is full.", min=0)
]


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command(epilog=EXITS)(replace)
    app.command(epilog=EXITS)(credits)


def replace(
    source: Source,
    ref_image: Ref = None,
    prompt: Prompt = None,
    output: Output = None,
    mask_image: Mask = None,
    negative_prompt: Negative = None,
    samples: Samples = None,
    scheduler: Scheduler = None,
    num_inference_steps: Steps = None,
    guidance_scale: Guidance = None,
    seed: Seed = None,
    strength: Strength = None,
    cn_weight: CnWeight = None,
    ip_adapter_weight: IpWeight = None,
    preserve_subject: Preserve = None,
    shadow: Shadow = None,
    shadow_direction: ShadowDirection = None,
    shadow_strength: ShadowStrength = None,
    harmonize: Harmonize = None,
    output_format: Format = None,
    concurrency: Concurrency = 4,
    as_json: AsJson = False,
    quote: AsQuote = False,
    triton: Triton = None,
    url: Url = None,
    retries: Retries = RETRIES,
) -> None:
    """Replace the background of a product photo, or of many. The key is read from BACKDROP_KEY.

    A batch that was stopped goes on when the same command is given again: nothing is made twice.
    """
    fields = _given(
        ref_image=ref_image,
        mask_image=mask_image,
        prompt=prompt,
        negative_prompt=negative_prompt,
        samples=samples,
        scheduler=scheduler,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        seed=seed,
        strength=strength,
        cn_weight=cn_weight,
        ip_adapter_weight=ip_adapter_weight,
        preserve_subject=preserve_subject,
        shadow=shadow,
        shadow_direction=shadow_direction,
        shadow_strength=shadow_strength,
        harmonize=harmonize,
        output_format=output_format,
    )
    server = _Server(triton, url, retries)
    if _is_batch(source):
        if quote:
            raise typer.BadParameter("it takes one picture, not a batch", param_hint="--quote")
        with one_sentence("interrupted; the same command goes on from here"):
            status = _replace_many(Path(source), output, fields, server, concurrency, as_json)
        raise typer.Exit(status)
    with one_sentence("interrupted; the request was cancelled"):
        if quote:
            _quote(source, fields, server, as_json=as_json)
        else:
            _replace_one(source, output, fields, server, as_json=as_json)


def credits(as_json: AsJson = False, url: Url = None, retries: Retries = RETRIES) -> None:  # noqa: A001 (its name as a command)
    """Say how many credits the key in BACKDROP_KEY can still spend."""
    with one_sentence("interrupted"), Backdrop(url, retries=retries) as client:
        left = format(client.credits(), "f")
    sys.stdout.write((json.dumps({"credits": left}) if as_json else left) + "\n")


@dataclasses.dataclass(frozen=True)
class _Server:
    """Who makes the pictures."""

    triton: str | None
    url: str | None
    retries: int

    def client(self) -> Client:
        if self.triton is not None:
            return Backdrop.triton(self.triton)
        return Backdrop(self.url, retries=self.retries)


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _is_batch(source: str) -> bool:
    return not is_link(source) and (Path(source).is_dir() or source.lower().endswith(".csv"))


def _replace_one(
    source: str, output: Path | None, fields: dict[str, Any], server: _Server, *, as_json: bool
) -> None:
    path = _output_path(source, output, fields)
    request = _complete(source, fields)
    with server.client() as client, progress_bar() as bar:
        task = bar.add_task("waiting", total=None)

        def show(seen: Progress) -> None:
            words = "painting" if seen.step else "waiting"
            bar.update(task, completed=seen.step, total=seen.total or None, description=words)

        result = client.replace(on_progress=show, **request)
    path.parent.mkdir(parents=True, exist_ok=True)
    names = write_pictures(path.parent, path.stem, path.suffix, result)
    _tell(result, [str(path.parent / name) for name in names], as_json=as_json)


def _replace_many(
    source: Path,
    output: Path | None,
    fields: dict[str, Any],
    server: _Server,
    concurrency: int,
    as_json: bool,
) -> int:
    rows = read_rows(source, fields)
    folder = output or source.with_name(f"{source.stem}-replaced")
    if folder.resolve() == source.resolve():
        raise invalid("output", "it is the folder of the photos", "another folder")
    with server.client() as client:
        submit = _submit_with(client)
        return run_batch(submit, rows, folder, concurrency, as_json=as_json)


def _submit_with(client: Client) -> Submit:
    if isinstance(client, Backdrop):
        return lambda fields, key: client.submit(idempotency_key=key, **fields)
    return lambda fields, key: client.submit(**fields)  # Triton bills nothing


def _quote(source: str, fields: dict[str, Any], server: _Server, *, as_json: bool) -> None:
    client = server.client()
    if not isinstance(client, Backdrop):
        raise invalid("quote", "Triton knows no prices", "--quote without --triton")
    with client:
        found = client.quote(**_complete(source, fields))
    if as_json:
        values = {name: str(value) for name, value in dataclasses.asdict(found).items()}
        sys.stdout.write(json.dumps(values) + "\n")
    else:
        sys.stdout.write(f"about {found.cost:f} credits, at most {found.reserved:f}\n")


def _complete(source: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The request's fields. Raises InvalidInput where one that it needs is missing."""
    request = {"image": source, **fields}
    for name, option in (("ref_image", "--ref"), ("prompt", "--prompt")):
        if name not in request:
            raise invalid(name, "it is missing", f"the option {option}")
    return request


def _output_path(source: str, output: Path | None, fields: dict[str, Any]) -> Path:
    """Where the result goes; its suffix says the format where no option does."""
    if output is None:
        stem = "picture" if is_link(source) else Path(source).stem
        return Path(f"{stem}-replaced{suffix_of(fields.get('output_format'))}")
    if "output_format" not in fields:
        if output.suffix.lower() not in FORMATS:
            raise invalid("output", f"{output.name!r} is of no known format", ", ".join(FORMATS))
        fields["output_format"] = FORMATS[output.suffix.lower()]
    return output


def _tell(result: Result, files: list[str], *, as_json: bool) -> None:
    cost = None if result.cost is None else format(result.cost, "f")
    if as_json:
        answer = {
            "files": files,
            "seeds": result.seeds,
            "cost": cost,
            "request_id": result.request_id,
            "report": result.report,
        }
        sys.stdout.write(json.dumps(answer) + "\n")
        return
    for file in files:
        sys.stdout.write(file + "\n")
    seeds = ", ".join(map(str, result.seeds))
    console.print(f"seed {seeds}" + ("" if cost is None else f", {cost} credits"))
