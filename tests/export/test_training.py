"""The short recipe from pictures to a bundle; a killed run goes on as if it had not been."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from backdrop_export.bundles import Bundle
from backdrop_export.loading import check_bundle, load_graph
from backdrop_export.training.console import Console
from backdrop_export.training.loop import Schedule, train
from backdrop_export.training.pipeline import train_bundle
from backdrop_export.training.recipe import RECIPES
from backdrop_export.training.render.captions import SCENE_NAMES, caption
from backdrop_export.training.render.palette import palette_distance, recolour
from backdrop_export.training.render.products import KINDS, draw_product, stand
from backdrop_export.training.render.scenes import paint_scene
from backdrop_server.errors import SetupError


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folder of a short run, and the bundle that it gave."""
    folder = tmp_path_factory.mktemp("training")
    out = folder / "demo"
    _train(folder / "run", out)
    return folder / "run", out


def _train(folder: Path, out: Path) -> None:
    """As a user does it: its processes are forked from one that has done nothing else."""
    command = Path(sys.executable).parent / "backdrop-export"
    options = ["--folder", str(folder), "--out", str(out), "--recipe", "short"]
    subprocess.run([str(command), "train", "demo", *options], check=True)


def test_a_short_run_gives_a_whole_bundle(trained: tuple[Path, Path]) -> None:
    bundle = Bundle.open(trained[1])
    check_bundle(bundle)
    assert bundle.value("backdrop.json", "weights") == "trained"
    assert bundle.value("scheduler/scheduler_config.json", "prediction_type") == "v_prediction"
    assert bundle.facts().vae_scaling_factor != 0.13025
    assert _dtypes(trained[1]) == {"F16"}
    decoder = load_graph(bundle, "vae_decoder")
    assert decoder(torch.zeros(1, 1, 4, 8, 8)).shape == (1, 1, 64, 64, 3)


def _dtypes(folder: Path) -> set[str]:
    from safetensors import safe_open

    found = set()
    for file in folder.rglob("*.safetensors"):
        with safe_open(file, "np") as weights:
            found |= {weights.get_slice(key).get_dtype() for key in weights.keys()}  # noqa: SIM118
    return found


def test_a_finished_run_is_not_done_again(trained: tuple[Path, Path], tmp_path: Path) -> None:
    run, out = trained
    again = tmp_path / "demo"
    _train(run, again)
    for file in out.rglob("*.safetensors"):
        assert (again / file.relative_to(out)).read_bytes() == file.read_bytes()


def test_a_run_of_other_settings_is_refused(trained: tuple[Path, Path], tmp_path: Path) -> None:
    other = dataclasses.replace(RECIPES["short"], seed=1)
    with pytest.raises(SetupError, match="other settings"):
        train_bundle("demo", other, trained[0], tmp_path / "demo", Console(quiet=True))


class StopError(Exception):
    """In place of a kill."""


def _fit(file: Path, stop_at: int = -1, steps: int = 40) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model, average = nn.Linear(3, 1), nn.Linear(3, 1)

    def loss_of_step(rng: np.random.Generator, _: float) -> torch.Tensor:
        inputs = torch.from_numpy(rng.random((8, 3), dtype=np.float32))
        return functional.mse_loss(model(inputs), inputs.sum(dim=1, keepdim=True))

    def progress(done: int, loss: float) -> None:
        if done == stop_at:
            raise StopError

    schedule = Schedule(steps=steps, batch=8, rate=0.05, warm_up=4, keep_every=10)
    train(model, average, schedule, loss_of_step, file, 0, progress)
    return average.state_dict()


def test_a_killed_run_ends_as_one_that_was_not(tmp_path: Path) -> None:
    whole = _fit(tmp_path / "whole.pt")
    with pytest.raises(StopError):
        _fit(tmp_path / "killed.pt", stop_at=27)
    resumed = _fit(tmp_path / "killed.pt")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_training_fits(tmp_path: Path) -> None:
    weights = _fit(tmp_path / "fit.pt", steps=600)
    assert torch.allclose(weights["weight"], torch.ones(1, 3), atol=0.05)


@pytest.mark.parametrize("scene", SCENE_NAMES)
def test_scenes_are_seeded_and_differ_by_seed(scene: str) -> None:
    first, again, other = (
        paint_scene(np.random.default_rng(seed), scene, 64) for seed in (1, 1, 2)
    )
    assert first.shape == (64, 64, 3) and first.dtype == np.float32
    assert first.min() >= 0 and first.max() <= 1
    assert np.array_equal(first, again)
    assert np.abs(first - other).mean() > 0.01


def test_products_of_every_kind_stand_in_the_picture() -> None:
    products = [draw_product(np.random.default_rng(seed), 64) for seed in range(80)]
    assert {product.kind for product in products} == set(KINDS)
    for product in products:
        share = float(product.alpha.mean())
        assert 0.01 < share < 0.5, product.kind
        scene = np.full((64, 64, 3), 0.5, np.float32)
        shown = stand(scene, product)
        assert np.allclose(shown[product.alpha == 1], product.rgb[product.alpha == 1], atol=1e-6)


def test_captions_name_their_scene_in_many_ways() -> None:
    texts = {caption(np.random.default_rng(seed), "beach", "bottle", "red") for seed in range(60)}
    assert len(texts) > 30
    assert all(any(word in text for word in ("beach", "shore", "coast", "sea")) for text in texts)


def test_a_recoloured_picture_has_the_other_ones_palette() -> None:
    beach, forest = (
        paint_scene(np.random.default_rng(3), name, 64) for name in ("beach", "forest")
    )
    before = palette_distance(beach, forest)
    assert palette_distance(recolour(beach, forest), forest) < 0.4 * before
    assert palette_distance(beach, beach) == 0
