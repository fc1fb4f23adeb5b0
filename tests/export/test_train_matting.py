"""Our own matting network: its pictures, a short run to a file, how the server mixes it in."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch

from backdrop_export.bundles import Bundle
from backdrop_export.engines import engine_kind
from backdrop_export.matting import install_matting, open_matting, write_own_matting
from backdrop_export.recipes import trained_matting
from backdrop_export.reporting import Report
from backdrop_export.repository import _Builder
from backdrop_export.training.console import Console
from backdrop_export.training.matting import MATTING_RECIPES, SIDE, train_matting
from backdrop_export.training.matting_network import MatteNet, maps_of, matte_loss, mixed
from backdrop_export.training.matting_pictures import MattingPictures
from backdrop_export.training.render.backdrops import BACKDROPS
from backdrop_export.training.render.cutouts import SEE_THROUGH, draw_cutout, photo_of
from backdrop_export.training.render.outlines import OUTLINES
from backdrop_server.errors import EngineError, SetupError
from backdrop_server.stages.evidence import CHANNELS, evidence
from backdrop_server.stages.keying import key_uniform_background
from backdrop_server.stages.matting import MattingNetwork, corrected, network_input
from backdrop_server.stages.pictures import Picture
from backdrop_server.stages.subject import find_matte
from backdrop_server.triton.matting import load_matting
from tests import pictures
from tests.pictures import Pixels

Floats = npt.NDArray[np.float32]

QUIET = Report(quiet=True)
SHORT = MATTING_RECIPES["short"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folder of a short run, and the file that it gave."""
    folder = tmp_path_factory.mktemp("matting")
    out = train_matting(SHORT, folder / "run", folder / "matting.onnx", Console(quiet=True))
    return folder / "run", out


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "built" / "preprocess" / "1").mkdir(parents=True)
    return tmp_path / "built"


def test_a_short_run_gives_a_file_that_the_server_runs(
    trained: tuple[Path, Path], repository: Path
) -> None:
    assert trained[1].stat().st_size < 5e6
    target = install_matting(str(trained[1]), "backdrop", repository, QUIET)
    network = load_matting(target.parent)
    assert network is not None and network.spec.keyed
    matte = find_matte(Picture(pale_product()), None, network)
    assert matte.source == "backdrop"
    assert matte.alpha.shape == (200, 300)


def test_a_finished_run_is_not_done_again(trained: tuple[Path, Path], tmp_path: Path) -> None:
    again = train_matting(SHORT, trained[0], tmp_path / "again.onnx", Console(quiet=True))
    assert again.read_bytes() == trained[1].read_bytes()
    with pytest.raises(SetupError, match="other settings"):
        other = dataclasses.replace(SHORT, seed=1)
        train_matting(other, trained[0], tmp_path / "other.onnx", Console(quiet=True))


def test_what_a_user_installs_comes_before_ours(
    trained: tuple[Path, Path], repository: Path
) -> None:
    folder = repository / "preprocess" / "1"
    write_own_matting(trained[1], engine_kind("onnxruntime-fp32"), folder)
    own = load_matting(folder)
    assert own is not None and own.kind == "backdrop"
    install_matting(str(trained[1]), "backdrop", repository, QUIET)
    (folder / "backdrop.onnx").write_bytes(b"")  # it is not even opened
    assert load_matting(folder) is not None


def test_a_repository_takes_the_network_that_ships(
    trained: tuple[Path, Path], tiny: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backdrop_export.recipes.TRAINED", trained[1].parent)
    kind = engine_kind("onnxruntime-fp32")
    version = tmp_path / "preprocess" / "1"
    version.mkdir(parents=True)
    builder = _Builder(tiny, kind, tmp_path, tmp_path, QUIET)
    builder._preprocess_files()
    assert (version / "backdrop.onnx").read_bytes() == trained[1].read_bytes()
    assert load_matting(version) is not None


@pytest.mark.parametrize("engine", ["openvino-fp32", "onnxruntime-fp16"])
def test_any_other_repository_runs_it_in_fp32(
    engine: str, trained: tuple[Path, Path], tmp_path: Path
) -> None:
    assert write_own_matting(trained[1], engine_kind(engine), tmp_path) == []
    assert (tmp_path / "backdrop.onnx").read_bytes() == trained[1].read_bytes()
    assert load_matting(tmp_path) is not None
    (tmp_path / "backdrop_network.json").unlink()
    with pytest.raises(EngineError, match="built again"):
        load_matting(tmp_path)


def test_a_repository_in_bf16_runs_the_network_that_ships_in_bf16(tmp_path: Path) -> None:
    file, most = trained_matting(), 0.1
    assert file is not None
    differences = write_own_matting(file, engine_kind("openvino-bf16"), tmp_path)
    assert [one.output for one in differences] == ["maps"]
    assert 1e-4 < differences[0].absolute < most
    network, exact = load_matting(tmp_path), open_matting(file, "backdrop")
    assert network is not None and network.spec.keyed and not (tmp_path / "backdrop.onnx").exists()
    keyed = key_uniform_background(pale_product())
    assert keyed is not None
    told, expected = (
        one.maps(network_input(pale_product(), one.spec), keyed) for one in (network, exact)
    )
    assert np.abs(told - expected).max() < most < expected.max()


def pale_product() -> Pixels:
    """A box that is hardly darker than its white ground, uint8 [200, 300, 3]."""
    rgb = np.full((200, 300, 3), 250, np.uint8)
    rgb[60:140, 100:200] = 230
    return rgb


def network_of(share: float | Floats, gate: float) -> MattingNetwork:
    """A network that says ``share`` of every picture, one number or a map [384, 384]."""

    def run(inputs: Any) -> dict[str, npt.NDArray[Any]]:
        side = inputs["evidence"].shape[-1]
        assert inputs["evidence"].shape == (1, CHANNELS, side, side)
        maps = np.empty((1, 2, side, side), np.float32)
        maps[:, 0], maps[:, 1] = share, gate
        return {"maps": maps}

    return MattingNetwork("backdrop", run, "evidence", "maps")


def corrected_by(network: MattingNetwork, rgb: Pixels, keyed: Pixels) -> Pixels:
    """The matte that ``network`` makes of ``keyed``."""
    return corrected(rgb, network.maps(network_input(rgb, network.spec), keyed), keyed)


def keyed_product() -> tuple[Pixels, Pixels]:
    """A product at the network's own size, and its key."""
    rgb = pictures.product(SIDE, SIDE)
    keyed = key_uniform_background(rgb)
    assert keyed is not None
    return rgb, keyed


def shrunk(keyed: Pixels, depth: int) -> npt.NDArray[np.bool_]:
    """What is left of what was keyed, ``depth`` pixels from its rim."""
    side = 2 * depth + 1
    left: npt.NDArray[np.bool_] = (
        cv2.erode((keyed == 255).astype(np.uint8), np.ones((side, side))) > 0
    )
    return left


def box(value: float = 1) -> Floats:
    """A share of ``value`` in the middle, 0 around it."""
    share = np.zeros((SIDE, SIDE), np.float32)
    share[120:260, 120:260] = value
    return share


def test_where_the_network_has_nothing_to_say_the_key_stays_bit_for_bit() -> None:
    rgb, keyed = keyed_product()
    found = corrected_by(network_of(1, 0), rgb, keyed)
    np.testing.assert_array_equal(found, keyed)


def test_a_network_in_doubt_is_heard_where_keying_is_not_sure_alone() -> None:
    network, clear, pale = (
        network_of(box(0.6), 1),
        Picture(pictures.product()),
        Picture(pale_product()),
    )
    assert find_matte(clear, None, network).source == "uniform background"
    assert find_matte(pale).source == "uniform background"
    assert find_matte(pale, None, network).source == "backdrop"


def test_a_network_without_doubt_corrects_a_sure_key_too() -> None:
    rgb, keyed = keyed_product()
    rim = (keyed == 255) & ~shrunk(keyed, 1)
    share = np.where(keyed == 255, np.float32(1), np.float32(0))
    share[rim] = 0.7
    matte = find_matte(Picture(rgb), None, network_of(share, 1))
    assert matte.source == "backdrop"
    assert (abs(matte.alpha[rim].astype(int) - round(255 * 0.68 / 0.93)) <= 1).all()


def test_the_inside_of_what_was_keyed_is_believed() -> None:
    rgb, keyed = keyed_product()
    torn = np.where(shrunk(keyed, 40), np.float32(0.3), np.float32(0.9))
    alpha = corrected_by(network_of(torn, 1), rgb, keyed)
    assert (alpha[shrunk(keyed, 4)] == 255).all()
    pale = corrected_by(network_of(0.3, 1), rgb, np.zeros_like(keyed))
    assert (pale[8:-8, 8:-8] == 255).all(), "of the ground's own colour, and yet a product"
    faint = corrected_by(network_of(0.1, 1), rgb, np.zeros_like(keyed))
    assert (faint < 255).all()


def test_a_product_that_is_see_through_nearly_everywhere_is_clear() -> None:
    rgb, keyed = keyed_product()
    rim = (keyed == 255) & ~shrunk(keyed, 12)
    glass = np.where(keyed == 255, np.float32(0.3), np.float32(0))
    glass[rim] = 0.9
    matte = find_matte(Picture(rgb), None, network_of(glass, 1))
    assert matte.source == "backdrop"
    middle = matte.alpha[shrunk(keyed, 14)].astype(int)
    assert (abs(middle - round(255 * 0.28 / 0.93)) <= 1).all()
    assert (matte.alpha[shrunk(keyed, 3) & rim & ~shrunk(keyed, 9)] == 255).all()


def test_the_evidence_tells_the_ground_from_the_product() -> None:
    rgb = np.full((96, 128, 3), 240, np.uint8)
    rgb[30:70, 40:90] = (30, 60, 120)
    told = evidence(rgb, key_uniform_background(rgb))
    assert told.shape == (CHANNELS, 96, 128) and told.dtype == np.float32
    inside, outside = told[:, 40:60, 50:80], told[:, :20]
    assert (told[4] == 1).all()
    assert (inside[[3, 5, 7]] == 1).all() and (inside[6] > 0.8).all()
    assert (outside[[3, 5, 6]] < 0.01).all() and (outside[7] < 0.3).all()
    grain = np.random.default_rng(0).integers(0, 256, rgb.shape).astype(np.uint8)
    assert not evidence(grain, None)[3:7].any()


def test_a_picture_is_drawn_with_what_keying_finds_of_it(trained: tuple[Path, Path]) -> None:
    found = MattingPictures(trained[0] / "pictures", SHORT.pictures, SHORT.side)
    keyed = [found.arrays["keyed"][index].any() for index in range(SHORT.pictures)]
    assert any(keyed) and not all(keyed)
    for number in range(8):
        told, alpha = found.draw(np.random.default_rng(number), 64)
        assert told.shape == (CHANNELS, 64, 64) and alpha.shape == (64, 64)
        assert np.isfinite(told).all() and np.abs(told).max() <= 1
        assert alpha.min() >= 0 and alpha.max() <= 1


def test_products_of_every_kind_are_drawn_the_same_each_time() -> None:
    drawn = [draw_cutout(np.random.default_rng(seed), 64) for seed in range(150)]
    assert {cutout.kind for cutout in drawn} > set(OUTLINES)
    for seed, cutout in enumerate(drawn[:20]):
        assert np.array_equal(draw_cutout(np.random.default_rng(seed), 64).alpha, cutout.alpha)
    for cutout in drawn:
        assert 0.005 < cutout.alpha.mean() < 0.6, cutout.kind
    glass = [cutout.alpha for cutout in drawn if cutout.kind in SEE_THROUGH]
    assert np.mean([((a > 0.05) & (a < 0.9)).sum() / (a > 0.05).sum() for a in glass]) > 0.4


@pytest.mark.parametrize("kind", BACKDROPS)
def test_a_photo_shows_the_product_before_its_ground(kind: str) -> None:
    rng = np.random.default_rng(3)
    cutout = draw_cutout(rng, 96)
    ground = BACKDROPS[kind][1](rng, 96)
    photo = photo_of(rng, cutout, ground)
    assert photo.shape == (96, 96, 3) and photo.dtype == np.uint8
    core = cutout.alpha == 1
    assert np.abs(photo[core] / 255 - cutout.rgb[core]).mean() < 0.05


def test_the_loss_knows_the_right_matte_and_shows_the_way_to_it() -> None:
    alpha = torch.zeros(1, 1, 64, 64)
    alpha[..., 16:48, 16:48] = 1
    told = torch.zeros(1, CHANNELS, 64, 64)
    right = torch.cat([20 * alpha - 10, torch.zeros_like(alpha)], dim=1)
    assert torch.equal(mixed(maps_of(right, told), told), alpha)
    assert matte_loss(right, told, alpha) < 0.01 < matte_loss(-right, told, alpha)
    torch.manual_seed(0)
    network = MatteNet()
    matte_loss(network.logits(told), told, alpha).backward()  # type: ignore[no-untyped-call]
    with_slope = [w.grad is not None and bool(w.grad.any()) for w in network.head.parameters()]
    assert all(with_slope)
