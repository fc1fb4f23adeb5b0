"""Whether the demo's weights follow the prompt, the reference picture and the ControlNet.

    python -m benchmarks.quality.prompts --repository build/demo-openvino-fp32

Sends 20 prompts with 5 seeds, and five values each of ``ip_adapter_weight`` and ``cn_weight``, to a
real tritonserver, and measures the raw pictures: a classifier that was trained apart names the scene,
the palette's distance to the reference is measured, and the edges inside the product's outline.
Plots of both and the twelve scenes go to docs/pictures.
"""

from __future__ import annotations

import io
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import tritonclient.grpc as grpcclient
import typer
from PIL import Image
from rich.console import Console
from rich.progress import track

from backdrop_client.triton import replace
from backdrop_export.training.dataset import unit
from backdrop_export.training.render.captions import SCENE_NAMES
from backdrop_export.training.render.palette import palette_distance
from backdrop_server.triton.launcher import LaunchSettings, TritonServer
from benchmarks.conditions import write_result
from benchmarks.quality.edges import edge_agreement
from benchmarks.quality.plots import draw_influence
from benchmarks.quality.requests import PROMPTS, SEEDS, photo_mask, png, product_photo, reference
from benchmarks.quality.scene_classifier import SceneClassifier, load_classifier

WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
CN_WEIGHTS = (0.0, 0.225, 0.45, 0.675, 0.9)
IN_FLIGHT = 6
"""Requests sent at once; their pictures do not depend on it."""
Pixels = npt.NDArray[np.uint8]
Paint = Callable[..., Pixels]
Request = tuple[int, str, str, int]
"""A prompt's number, its scene, its text, a seed."""
console = Console()


def main(
    repository: Annotated[Path, typer.Option(help="A built repository.")],
    folder: Annotated[Path, typer.Option(help="Where the classifier is kept.")] = Path(
        "build/quality"
    ),
    seeds: Annotated[int, typer.Option(help="Seeds of each prompt, at most 5.")] = len(SEEDS),
    pictures: Annotated[Path, typer.Option(help="Where plots and scenes go.")] = Path(
        "docs/pictures"
    ),
) -> None:
    """Measure, print the figures, write the result file, the plots and the twelve scenes."""
    classifier, accuracy = load_classifier(folder)
    settings = LaunchSettings(repository, http_port=0, grpc_port=0, metrics_port=0)
    with (
        TritonServer(settings) as server,
        grpcclient.InferenceServerClient(server.grpc_url) as client,
    ):
        paint = painter(client)
        figures = {
            "classifier_accuracy_on_renders": accuracy,
            "seconds_of_one_picture": solo_seconds(paint),
            "prompts": prompt_figures(paint, classifier, SEEDS[:seeds]),
            "ip_adapter_weight": palette_figures(paint, classifier, SEEDS[: max(1, seeds - 3)]),
            "cn_weight": edge_figures(paint, SEEDS[: max(1, seeds - 3)]),
        }
        draw_grid(paint, pictures / "demo-scenes.jpg")
    draw_influence(figures, pictures / "demo-influence.png")
    path = write_result(f"quality-{repository.name}", figures)
    console.print_json(data=figures)
    console.print(f"written: {path}")


def painter(client: grpcclient.InferenceServerClient) -> Paint:
    """A function that sends one request and gives its raw picture."""

    def paint(photo: Pixels, look: Pixels, **fields: Any) -> Pixels:
        answer = replace(
            client, grpcclient, image=png(photo), ref_image=png(look),
            preserve_subject=False, output_format="png", **fields,
        )  # fmt: skip
        return np.array(Image.open(io.BytesIO(answer.images[0])))

    return paint


def everywhere(work: Callable[[Any], Pixels], requests: Sequence[Any], title: str) -> list[Pixels]:
    """The pictures of ``requests`` in their order, IN_FLIGHT at once."""
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        return list(track(pool.map(work, requests), title, len(requests), console=console))


def solo_seconds(paint: Paint) -> float:
    """Median wall seconds of a picture with every default, alone on the server."""
    taken = []
    for seed in range(4):
        begun = time.perf_counter()
        paint(product_photo(0), reference("beach", 0), prompt=PROMPTS[0][1], seed=seed)
        taken.append(time.perf_counter() - begun)
    return round(statistics.median(taken[1:]), 2)


def prompt_figures(
    paint: Paint, classifier: SceneClassifier, seeds: tuple[int, ...]
) -> dict[str, Any]:
    """How often the classifier names the asked-for scene, the reference picture without weight."""
    named: dict[str, list[bool]] = {scene: [] for scene in SCENE_NAMES}
    requests = [(n, scene, prompt, s) for n, (scene, prompt) in enumerate(PROMPTS) for s in seeds]

    def of(request: Request) -> Pixels:
        number, scene, prompt, seed = request
        return paint(
            product_photo(number), reference(scene, number),
            prompt=prompt, seed=seed, ip_adapter_weight=0.0,
        )  # fmt: skip

    for (_, scene, *_rest), picture in zip(
        requests, everywhere(of, requests, "prompts"), strict=True
    ):
        named[scene].append(classifier.name([picture]) == [scene])
    everything = [right for rights in named.values() for right in rights]
    return {
        "results": len(everything),
        "right": round(statistics.mean(everything), 3),
        "by_scene": {scene: round(statistics.mean(rights), 3) for scene, rights in named.items()},
    }


def palette_figures(
    paint: Paint, classifier: SceneClassifier, seeds: tuple[int, ...]
) -> dict[str, Any]:
    """Palette distance to a reference of another scene, and the prompt's scene, by weight."""
    distances: list[float] = []
    rights: list[float] = []
    for weight in WEIGHTS:
        requests = [(n, *request, s) for n, request in enumerate(PROMPTS) for s in seeds]

        def of(request: Request, weight: float = weight) -> Pixels:
            number, scene, prompt, seed = request
            look = _other_look(scene, number)
            return paint(
                product_photo(number), look, prompt=prompt, seed=seed, ip_adapter_weight=weight
            )

        found = everywhere(of, requests, f"look {weight}")
        looks = [_other_look(scene, number) for number, scene, *_ in requests]
        apart = [palette_distance(unit(p), unit(q)) for p, q in zip(found, looks, strict=True)]
        asked = [scene for _, scene, *_ in requests]
        right = [a == b for a, b in zip(classifier.name(found), asked, strict=True)]
        distances.append(round(statistics.mean(apart), 2))
        rights.append(round(statistics.mean(right), 3))
    return {
        "weights": list(WEIGHTS),
        "palette_distance": distances,
        "fall": round(1 - distances[-1] / distances[0], 3),
        "scene_right": rights,
        "monotone": all(b <= a for a, b in itertools.pairwise(distances)),
    }


def _other_look(scene: str, number: int) -> Pixels:
    """A reference of another scene than the one that is asked for."""
    other = SCENE_NAMES[(SCENE_NAMES.index(scene) + 5) % len(SCENE_NAMES)]
    return reference(other, number)


def edge_figures(paint: Paint, seeds: tuple[int, ...]) -> dict[str, Any]:
    """Agreement of the edges inside the product's outline by ``cn_weight``."""
    agreements = []
    for weight in CN_WEIGHTS:
        requests = [(n, *request, s) for n, request in enumerate(PROMPTS) for s in seeds]

        def of(request: Request, weight: float = weight) -> Pixels:
            number, scene, prompt, seed = request
            return paint(
                product_photo(number), reference(scene, number),
                prompt=prompt, seed=seed, cn_weight=weight, ip_adapter_weight=0.0,
            )  # fmt: skip

        found = everywhere(of, requests, f"edges {weight}")
        photos = [product_photo(number) for number, *_ in requests]
        agreements.append(
            round(
                statistics.mean(
                    edge_agreement(picture, photo, photo_mask(photo))
                    for picture, photo in zip(found, photos, strict=True)
                ),
                3,
            )
        )
    return {
        "weights": list(CN_WEIGHTS),
        "edge_agreement": agreements,
        "ratio": round(agreements[-1] / max(agreements[0], 1e-9), 2),
        "monotone": all(b >= a for a, b in itertools.pairwise(agreements)),
    }


def draw_grid(paint: Paint, path: Path) -> None:
    """Three rows of four scenes, the first prompt of each, as one picture.

    At the guidance that the demo's own request has; the figures above are at the default.
    """
    first = {scene: (n, prompt) for n, (scene, prompt) in reversed(list(enumerate(PROMPTS)))}
    pictures = [
        paint(product_photo(n), reference(scene, n), prompt=prompt, seed=1, guidance_scale=3.0)
        for scene, (n, prompt) in ((scene, first[scene]) for scene in SCENE_NAMES)
    ]
    rows = [np.concatenate(pictures[start : start + 4], axis=1) for start in (0, 4, 8)]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows)).save(path, optimize=True, quality=90)


if __name__ == "__main__":
    typer.run(main)
