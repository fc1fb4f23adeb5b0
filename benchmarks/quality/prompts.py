"""Whether the demo's weights follow the prompt, the reference picture and the ControlNet.

    python -m benchmarks.quality.prompts --repository build/demo-openvino-fp32

Sends 20 prompts with 5 seeds, and five values each of ``ip_adapter_weight`` and ``cn_weight``, to a
real tritonserver, and measures the raw pictures: a classifier that was trained apart names the scene,
the palette's distance to the reference is measured, and the edges inside the product's outline.
"""

from __future__ import annotations

import io
import itertools
import statistics
from collections.abc import Callable
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
from benchmarks.quality.requests import PROMPTS, SEEDS, photo_mask, png, product_photo, reference
from benchmarks.quality.scene_classifier import SceneClassifier, load_classifier

WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
CN_WEIGHTS = (0.0, 0.225, 0.45, 0.675, 0.9)
Pixels = npt.NDArray[np.uint8]
Paint = Callable[..., Pixels]
console = Console()


def main(
    repository: Annotated[Path, typer.Option(help="A built repository.")],
    folder: Annotated[Path, typer.Option(help="Where the classifier is kept.")] = Path(
        "build/quality"
    ),
    seeds: Annotated[int, typer.Option(help="Seeds of each prompt, at most 5.")] = len(SEEDS),
    grid: Annotated[Path, typer.Option(help="Where the scenes are shown.")] = Path(
        "docs/pictures/demo-scenes.png"
    ),
) -> None:
    """Measure, print the figures, write the result file and a picture of the twelve scenes."""
    classifier, accuracy = load_classifier(folder)
    settings = LaunchSettings(repository, http_port=0, grpc_port=0, metrics_port=0)
    with (
        TritonServer(settings) as server,
        grpcclient.InferenceServerClient(server.grpc_url) as client,
    ):
        paint = painter(client)
        figures = {
            "classifier_accuracy_on_renders": accuracy,
            "prompts": prompt_figures(paint, classifier, SEEDS[:seeds]),
            "ip_adapter_weight": palette_figures(paint, classifier, SEEDS[: max(1, seeds - 3)]),
            "cn_weight": edge_figures(paint, SEEDS[: max(1, seeds - 3)]),
        }
        draw_grid(paint, grid)
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


def prompt_figures(
    paint: Paint, classifier: SceneClassifier, seeds: tuple[int, ...]
) -> dict[str, Any]:
    """How often the classifier names the asked-for scene, the reference picture without weight."""
    named: dict[str, list[bool]] = {scene: [] for scene in SCENE_NAMES}
    requests = [(n, scene, prompt, s) for n, (scene, prompt) in enumerate(PROMPTS) for s in seeds]
    for number, scene, prompt, seed in track(requests, "prompts", console=console):
        picture = paint(
            product_photo(number), reference(scene, number),
            prompt=prompt, seed=seed, ip_adapter_weight=0.0,
        )  # fmt: skip
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
        apart, right = [], []
        requests = [(n, *request, s) for n, request in enumerate(PROMPTS) for s in seeds]
        for number, scene, prompt, seed in track(requests, f"look {weight}", console=console):
            other = SCENE_NAMES[(SCENE_NAMES.index(scene) + 5) % len(SCENE_NAMES)]
            look = reference(other, number)
            picture = paint(
                product_photo(number), look, prompt=prompt, seed=seed, ip_adapter_weight=weight
            )
            apart.append(palette_distance(unit(picture), unit(look)))
            right.append(classifier.name([picture]) == [scene])
        distances.append(round(statistics.mean(apart), 2))
        rights.append(round(statistics.mean(right), 3))
    return {
        "weights": list(WEIGHTS),
        "palette_distance": distances,
        "fall": round(1 - distances[-1] / distances[0], 3),
        "scene_right": rights,
        "monotone": all(b <= a for a, b in itertools.pairwise(distances)),
    }


def edge_figures(paint: Paint, seeds: tuple[int, ...]) -> dict[str, Any]:
    """Agreement of the edges inside the product's outline by ``cn_weight``."""
    agreements = []
    for weight in CN_WEIGHTS:
        found = []
        requests = [(n, *request, s) for n, request in enumerate(PROMPTS) for s in seeds]
        for number, scene, prompt, seed in track(requests, f"edges {weight}", console=console):
            photo = product_photo(number)
            picture = paint(
                photo, reference(scene, number),
                prompt=prompt, seed=seed, cn_weight=weight, ip_adapter_weight=0.0,
            )  # fmt: skip
            found.append(edge_agreement(picture, photo, photo_mask(photo)))
        agreements.append(round(statistics.mean(found), 3))
    return {
        "weights": list(CN_WEIGHTS),
        "edge_agreement": agreements,
        "ratio": round(agreements[-1] / max(agreements[0], 1e-9), 2),
        "monotone": all(b >= a for a, b in itertools.pairwise(agreements)),
    }


def draw_grid(paint: Paint, path: Path) -> None:
    """Three rows of four scenes, the first prompt of each, as one picture."""
    first = {scene: (n, prompt) for n, (scene, prompt) in reversed(list(enumerate(PROMPTS)))}
    pictures = [
        paint(product_photo(n), reference(scene, n), prompt=prompt, seed=1)
        for scene, (n, prompt) in ((scene, first[scene]) for scene in SCENE_NAMES)
    ]
    rows = [np.concatenate(pictures[start : start + 4], axis=1) for start in (0, 4, 8)]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows)).save(path, optimize=True)


if __name__ == "__main__":
    typer.run(main)
