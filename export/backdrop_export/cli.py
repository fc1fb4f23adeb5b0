"""The command ``backdrop-export``: make bundles, and turn one into a Triton model repository."""

from __future__ import annotations

import enum
import sys
from pathlib import Path
from typing import Annotated

import typer

from backdrop_export.architectures import ARCHITECTURES
from backdrop_export.checkpoints.recipe import is_recipe, read_recipe
from backdrop_export.engines import DEFAULT_ENGINE, ENGINE_KINDS
from backdrop_export.recipes import bundle_is_current
from backdrop_export.reporting import Report
from backdrop_export.repository import export_repository
from backdrop_export.tensorrt_support import register as register_check
from backdrop_server.errors import BackdropError

app = typer.Typer(
    help="Make bundles and turn them into Triton model repositories.",
    no_args_is_help=True,
    add_completion=False,
)
BundleName = enum.Enum("BundleName", {name: name for name in ARCHITECTURES})  # type: ignore[misc]
EngineName = enum.Enum("EngineName", {name: name for name in ENGINE_KINDS})  # type: ignore[misc]


class PlanPrecision(enum.Enum):
    """Precisions of TensorRT plans."""

    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"
    fp8 = "fp8"


class TrainedName(enum.Enum):
    """What can be trained: a bundle, or the matting network."""

    demo = "demo"
    matting = "matting"


class RecipeName(enum.Enum):
    """Recipes of training."""

    full = "full"
    short = "short"


_DEFAULT_ENGINE = EngineName(DEFAULT_ENGINE)
_RECIPE = "A recipe (a .toml file), or the name of a shipped one: sdxl."
_BUNDLE = "A bundle's folder in diffusers' layout, or a recipe: it is assembled first."


@app.command()
def bundle(
    name: Annotated[BundleName, typer.Argument(help="Which bundle to make; sdxl-random is 11 GB.")],
    out: Annotated[Path, typer.Option(help="The folder to write; replaced when it exists.")],
) -> None:
    """Make a bundle, the same bytes each time: trained weights where they ship, else random."""
    report = Report()
    if bundle_is_current(name.value, out):
        report.say(f"{out}: up to date")
        return
    with report.step(f"bundle {name.value} in {out}"):
        from backdrop_export.synthetic import make_bundle

        make_bundle(name.value, out)


@app.command()
def train(
    name: Annotated[TrainedName, typer.Argument(help="A bundle, or the matting network.")],
    out: Annotated[
        Path, typer.Option(help="The bundle's folder, the network's ONNX file; replaced if there.")
    ],
    folder: Annotated[
        Path,
        typer.Option(help="Where pictures and checkpoints are kept; a run goes on from there."),
    ] = Path("build/training"),
    recipe: Annotated[
        RecipeName, typer.Option(help="full: for weights that ship; short: shows that it runs.")
    ] = RecipeName.full,
) -> None:
    """Train from nothing on pictures rendered here; a run that was killed goes on."""
    from backdrop_export.training.console import Console

    if name is TrainedName.matting:
        from backdrop_export.training.matting import MATTING_RECIPES, train_matting

        train_matting(MATTING_RECIPES[recipe.value], folder, out, Console())
        return
    from backdrop_export.training.pipeline import train_bundle
    from backdrop_export.training.recipe import RECIPES

    train_bundle(name.value, RECIPES[recipe.value], folder, out, Console())


@app.command()
def assemble(
    recipe: Annotated[Path, typer.Argument(help=_RECIPE)],
    out: Annotated[Path, typer.Option(help="The bundle's folder; replaced when it exists.")],
) -> None:
    """Make a bundle of published checkpoints: link, convert, fuse, and check every key."""
    from backdrop_export.checkpoints.assemble import assemble as assemble_bundle

    assemble_bundle(read_recipe(recipe), out, Report())


@app.command()
def plan(
    bundle: Annotated[Path, typer.Argument(help=_BUNDLE)],
    engine: Annotated[EngineName, typer.Option(help="As for repository.")] = _DEFAULT_ENGINE,
    out: Annotated[Path, typer.Option(help="As for repository.")] = Path("build"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what an export would read, download and write, and whether the disk holds it."""
    from backdrop_export.checkpoints.plan import make_plan
    from backdrop_export.checkpoints.plan_table import plan_json, print_plan

    made = make_plan(bundle, engine.value, out)
    if as_json:
        typer.echo(plan_json(made))
    else:
        print_plan(made)
    made.check()


@app.command()
def repository(
    bundle: Annotated[Path, typer.Argument(help=_BUNDLE)],
    engine: Annotated[
        EngineName, typer.Option(help="What compiles and runs the graphs, and in what precision.")
    ] = _DEFAULT_ENGINE,
    out: Annotated[
        Path, typer.Option(help="The repository becomes <out>/<bundle>-<engine>.")
    ] = Path("build"),
    declarations: Annotated[
        Path | None,
        typer.Option(help="The committed model declarations.", show_default="model_repository"),
    ] = None,
) -> None:
    """Export a bundle or a recipe: ONNX graphs, engines, and a complete Triton model repository."""
    report = Report()
    if is_recipe(bundle):
        from backdrop_export.checkpoints.assemble import assemble as assemble_bundle

        recipe = read_recipe(bundle)
        bundle = assemble_bundle(recipe, out / "bundles" / recipe.name, report)
    export_repository(bundle, engine.value, out, declarations, report)


@app.command()
def trtexec(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder in diffusers' layout.")],
    precision: Annotated[
        PlanPrecision, typer.Option(help="What the plans compute in.")
    ] = PlanPrecision.fp16,
    out: Annotated[Path, typer.Option(help="Where the graphs are kept.")] = Path("build"),
    folder: Annotated[Path, typer.Option(help="Where the plans are to go.")] = Path("plans"),
) -> None:
    """Print the lines that build TensorRT plans of a bundle in NVIDIA's container."""
    from backdrop_export.compilers import trtexec_sources

    for line in trtexec_sources(bundle, f"tensorrt-{precision.value}", out, folder):
        sys.stdout.write(f"{line}\n\n")


@app.command()
def matting(
    source: Annotated[str, typer.Argument(help="An ONNX file, or repo:file.onnx on the hub.")],
    kind: Annotated[
        str, typer.Option(help="u2net, isnet, birefnet, rmbg-1.4, rmbg-2.0 or backdrop.")
    ],
    repository: Annotated[Path, typer.Option(help="A built repository, which takes it.")],
) -> None:
    """Put a matting network beside preprocess; without one, mattes are keyed or cut."""
    from backdrop_export.matting import install_matting

    report = Report()
    report.say(f"written: {install_matting(source, kind, repository, report)}")


register_check(app)


def main() -> None:
    """Run the command; an error that we raise is one sentence on stderr and exit code 1."""
    try:
        app()
    except BackdropError as error:
        sys.stderr.write(f"backdrop-export: {error}\n")
        sys.exit(1)
    except OSError as error:  # a full disk, a folder that may not be written
        place = f" {error.filename}" if error.filename else ""
        sys.stderr.write(f"backdrop-export: cannot read or write{place}: {error.strerror}\n")
        sys.exit(1)
