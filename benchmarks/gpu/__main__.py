"""The GPU bench: one step, all that remain, or the report.

    python -m benchmarks.gpu all --out results --size full --device cuda --minutes 9

Each step writes one result file in ``--out`` and ends within ``--minutes``. ``all`` runs the steps
that have none yet and stops when its minutes are used: run it again until it says that all are there.
Needs nothing but torch, transformers and diffusers beside this source.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from backdrop_server.errors import BackdropError

SIZES = ("full", "small")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; unknown words end the program with a sentence."""
    from benchmarks.gpu.steps import STEPS

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=(__doc__ or "").partition("\n")[0],
        epilog="steps: " + "; ".join(f"{name}: {step.what}" for name, step in STEPS.items()),
    )
    parser.add_argument("step", choices=[*STEPS, "all", "report"])
    parser.add_argument("--out", type=Path, required=True, help="folder of the result files")
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--precision", choices=("fp16", "bf16", "fp32"), default="fp16")
    parser.add_argument("--minutes", type=float, default=9, help="most minutes of this command")
    parser.add_argument(
        "--work",
        type=Path,
        default=Path(tempfile.gettempdir()) / "backdrop-gpu-bench",
        help="folder for engine files, too large to bring home",
    )
    parser.add_argument(
        "--repository",
        type=Path,
        help="what backdrop-export built for an engine, or the folder that holds several such",
    )
    parser.add_argument("--engine", help="engine of batching, mixed and profile; default: fastest")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0: done, 1: the user's error, 3: steps remain, run it again."""
    from benchmarks.gpu import run

    given = parse(arguments)
    try:
        return run.command(given)
    except BackdropError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
