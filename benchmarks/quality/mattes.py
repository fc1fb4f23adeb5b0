"""Mattes and fringes of the synthetic set, ours beside thresholding and rembg's algorithms.

python -m benchmarks.quality.mattes [--photos FOLDER] [--only KIND] [--network FILE] [--quick]
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from backdrop_client import examples
from backdrop_export.matting import open_matting
from backdrop_export.recipes import trained_matting
from backdrop_server.errors import InvalidInputError
from backdrop_server.stages.composite import paste_back
from backdrop_server.stages.fidelity import fidelity, product_of
from backdrop_server.stages.foreground import estimate_foreground
from backdrop_server.stages.matting import OWN_MATTING, MattingNetwork
from backdrop_server.stages.pictures import Picture
from backdrop_server.stages.subject import find_matte
from benchmarks.conditions import write_result
from benchmarks.quality import metrics, rivals
from benchmarks.quality.dataset import Sample, mixed_in_light, samples
from benchmarks.quality.grounds import KINDS, photo_files

Pixels = npt.NDArray[np.uint8]
Row = dict[str, Any]

REMBG_EVERY = 9
NEW_GROUNDS = ((28, 44, 70), (214, 170, 60))


def measure(sample: Sample, alpha: Pixels, foreground: Pixels, new: Pixels) -> Row:
    """One way's figures for one picture before the new background ``new`` uint8 [H, W, 3]."""
    result = paste_back(foreground, alpha, new)
    truth = mixed_in_light(sample.foreground, new, sample.alpha)
    outline = np.rint(sample.alpha * 255).astype(np.uint8)
    return {
        "sad": metrics.sad(alpha, sample.alpha),
        "coverage": metrics.coverage(alpha, sample.core),
        "fringe": metrics.fringe_error(result, truth, sample.band),
        "residue": metrics.residue(result, truth, sample.background, new, sample.band),
        "seam": metrics.seam(result, outline) / metrics.seam(truth, outline),
    }


def shipped_network() -> MattingNetwork | None:
    """Our own matting network, where one ships."""
    file = trained_matting()
    return open_matting(file, OWN_MATTING) if file else None


def ours(sample: Sample, network: MattingNetwork | None = None) -> tuple[Pixels, Pixels, Row]:
    """The server's matte and foreground, and how it came by them."""
    began = time.perf_counter()
    try:
        matte = find_matte(Picture(sample.photo), None, network)
    except InvalidInputError:
        empty = np.zeros(sample.photo.shape[:2], np.uint8)
        return empty, sample.photo, {"source": "refused", "sureness": 0.0, "seconds": 0.0}
    foreground = estimate_foreground(sample.photo, matte.alpha)
    told = {"source": matte.source, "sureness": matte.sureness}
    return matte.alpha, foreground, told | {"seconds": time.perf_counter() - began}


def given(sample: Sample, new: Pixels) -> Row:
    """Paste-back with the true alpha given: is the core the photo's, bit for bit?"""
    alpha = np.rint(sample.alpha * 255).astype(np.uint8)
    result = paste_back(estimate_foreground(sample.photo, alpha), alpha, new)
    truth = mixed_in_light(sample.foreground, new, sample.alpha)
    kept = fidelity(product_of(sample.photo, alpha), result)
    return {
        "exact": bool((result[sample.core] == sample.photo[sample.core]).all()),
        "core_psnr_db": metrics.masked_psnr(result, sample.photo, sample.core),
        "fringe": metrics.fringe_error(result, truth, sample.band),
        "residue": metrics.residue(result, truth, sample.background, new, sample.band),
        **dataclasses.asdict(kept),
    }


def run(chosen: Iterable[Sample], network: MattingNetwork | None) -> list[Row]:
    """Every picture's figures, of every way."""
    rows = []
    for number, sample in enumerate(chosen):
        new = np.empty_like(sample.photo)
        new[:] = NEW_GROUNDS[number % 2]
        alpha, foreground, told = ours(sample, network)
        hard = rivals.threshold(sample.photo)
        row: Row = {"name": sample.name, "kind": sample.kind, "product": sample.product}
        row["ours"] = measure(sample, alpha, foreground, new) | told
        row["threshold"] = measure(sample, hard, sample.photo, new)
        row["given"] = given(sample, new)
        if number % REMBG_EVERY == 0 and rivals.can_run_rembg():
            row["rembg"] = measure(sample, *rivals.rembg(sample.photo, hard), new)
        rows.append(row)
    return rows


def summary(rows: list[Row]) -> Row:
    """Means by kind of background, and over all kinds."""
    table: Row = {}
    for kind in ("all", *KINDS):
        chosen = [row for row in rows if kind in {"all", row["kind"]}]
        if chosen:
            table[kind] = _means(chosen)
    return table


def by_product(rows: list[Row]) -> Row:
    """Means by product, over the plain backgrounds."""
    plain = [row for row in rows if row["kind"] != "photo"]
    return {
        product: _means([row for row in plain if row["product"] == product])
        for product in dict.fromkeys(row["product"] for row in plain)
    }


def _means(rows: list[Row]) -> Row:
    with_rembg = [row for row in rows if "rembg" in row]
    found: Row = {"pictures": len(rows), "pictures_with_rembg": len(with_rembg)}
    found["refused"] = sum(row["ours"]["source"] == "refused" for row in rows)
    found["core_bit_exact_if_given"] = sum(row["given"]["exact"] for row in rows)
    for way in ("ours", "threshold"):
        found[way] = {name: _mean(rows, way, name) for name in _MEASURED}
    found["given"] = {name: _mean(rows, "given", name) for name in ("fringe", "residue")}
    for way in ("ours", "rembg") if with_rembg else ():
        found[f"{way}_where_rembg"] = {name: _mean(with_rembg, way, name) for name in _MEASURED}
    found["core_covered_99"] = sum(row["ours"]["coverage"] >= 0.99 for row in rows)
    return found


_MEASURED = ("sad", "coverage", "fringe", "residue", "seam")


def _mean(rows: list[Row], way: str, name: str) -> float:
    return round(statistics.fmean(row[way][name] for row in rows), 4)


def sureness(rows: list[Row]) -> Row:
    """What sureness is worth: mean matte error of pictures by how sure the server was."""
    bounds = ((0, 0.5), (0.5, 0.8), (0.8, 0.95), (0.95, 1.01))
    told: Row = {}
    for low, high in bounds:
        chosen = [row for row in rows if low <= row["ours"]["sureness"] < high]
        if chosen:
            mean = _mean(chosen, "ours", "sad")
            told[f"{low} to {min(high, 1)}"] = {"pictures": len(chosen), "sad": mean}
    return told


def main() -> None:
    """Run the set and write ``results/quality-mattes.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, action="append", default=[])
    parser.add_argument("--only", choices=KINDS)
    parser.add_argument("--network", type=Path, help="an ONNX file of our own matting network")
    parser.add_argument("--quick", action="store_true", help="print, write nothing")
    options = parser.parse_args()
    photos = photo_files([examples.path("reference.jpg").parent, *options.photos])
    file = options.network
    network = open_matting(file, OWN_MATTING) if file else shipped_network()
    rows = run((s for s in samples(photos) if options.only in {None, s.kind}), network)
    for kind, means in summary(rows).items():
        print(kind, means)
    print(sureness(rows))
    if not options.quick:
        result: Row = {
            "background_photos": [path.name for path in photos],
            "network": network.kind if network else None,
            "summary": summary(rows),
        }
        result |= {"by_product": by_product(rows), "sureness": sureness(rows), "rows": rows}
        path = write_result("quality-mattes", result)
        print(f"written: {path.name}")


if __name__ == "__main__":
    main()
