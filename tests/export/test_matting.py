"""The slot for a matting network: a small ONNX file with a published network's inputs and outputs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from backdrop_export.matting import install_matting
from backdrop_export.reporting import Report
from backdrop_server.errors import EngineError, InvalidInputError, SetupError
from backdrop_server.stages.matting import MATTING_SPECS, network_input
from backdrop_server.stages.pictures import Picture
from backdrop_server.stages.subject import find_matte
from backdrop_server.triton.matting import load_matting
from tests import pictures

NAMES = {"u2net": ("input.1", "1959"), "birefnet": ("input_image", "output_image")}
QUIET = Report(quiet=True)
PUBLISHED = [kind for kind, spec in MATTING_SPECS.items() if not spec.keyed]


def darkness(path: Path, kind: str, scale: float = -4.0, offset: float = 0.0) -> Path:
    """A network that finds what is dark: the channels' mean, scaled, through a sigmoid or not."""
    spec = MATTING_SPECS[kind]
    name, output = NAMES.get(kind, ("input", "output"))
    weights = np.full((1, 3, 1, 1), scale, np.float32)
    bias = np.array([offset], np.float32)
    last = output if spec.logits else "logits"
    nodes = [helper.make_node("Conv", [name, "weights", "bias"], [last])]
    if not spec.logits:
        nodes.append(helper.make_node("Sigmoid", ["logits"], [output]))
    ends = [
        helper.make_tensor_value_info(end, TensorProto.FLOAT, [1, channels, spec.side, spec.side])
        for end, channels in ((name, 3), (output, 1))
    ]
    constants = [
        onnx.numpy_helper.from_array(array, key)
        for key, array in (("weights", weights), ("bias", bias))
    ]
    graph = helper.make_graph(nodes, "darkness", ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))
    return path


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "built" / "preprocess" / "1").mkdir(parents=True)
    return tmp_path / "built"


@pytest.mark.parametrize("kind", PUBLISHED)
def test_an_installed_network_makes_the_mattes(tmp_path: Path, repository: Path, kind: str) -> None:
    file = darkness(tmp_path / "net.onnx", kind, scale=-8, offset=6)
    target = install_matting(str(file), kind, repository, QUIET)
    declared = json.loads(target.with_name("matting_network.json").read_text())
    assert declared["licence"] == MATTING_SPECS[kind].licence
    network = load_matting(target.parent)
    assert network is not None
    assert declared.pop("precision") == "fp32"
    target.with_name("matting_network.json").write_text(json.dumps(declared))
    assert load_matting(target.parent) is not None  # as such files were once written
    rgb = np.full((500, 700, 3), 250, np.uint8)
    rgb[150:350, 200:500] = 10
    matte = find_matte(Picture(rgb), None, network)
    assert matte.source == kind
    assert matte.sureness > 0.9
    assert (matte.alpha[160:340, 210:490] == 255).all()
    assert not matte.alpha[:140].any()


def test_without_a_file_there_is_no_network(repository: Path) -> None:
    assert load_matting(repository / "preprocess" / "1") is None


def test_a_mask_and_the_files_own_alpha_come_before_the_network(
    tmp_path: Path, repository: Path
) -> None:
    target = install_matting(
        str(darkness(tmp_path / "n.onnx", "u2net")), "u2net", repository, QUIET
    )
    network = load_matting(target.parent)
    rgb, mask = pictures.product(), pictures.product_mask()
    assert find_matte(Picture(rgb), mask, network).source == "mask"
    assert (
        find_matte(Picture(rgb, np.subtract(255, mask, dtype=np.uint8)), None, network).source
        == "alpha"
    )


def test_a_network_that_finds_nothing_asks_for_a_mask(tmp_path: Path, repository: Path) -> None:
    file = darkness(tmp_path / "n.onnx", "isnet", scale=0)
    network = load_matting(install_matting(str(file), "isnet", repository, QUIET).parent)
    with pytest.raises(InvalidInputError, match="no subject could be told") as caught:
        find_matte(Picture(pictures.product()), None, network)
    assert "mask_image" in caught.value.allowed


@pytest.mark.parametrize("kind", PUBLISHED)
def test_the_input_is_normalised_as_published(kind: str) -> None:
    spec = MATTING_SPECS[kind]
    rgb = np.zeros((40, 60, 3), np.uint8)
    rgb[..., 0], rgb[..., 1], rgb[..., 2] = 200, 100, 50
    given = network_input(rgb, spec)
    assert given.shape == (1, 3, spec.side, spec.side)
    assert given.dtype == np.float32
    brightest = 200 if kind == "u2net" else 255
    for channel, value in enumerate((200, 100, 50)):
        expected = (value / brightest - spec.mean[channel]) / spec.std[channel]
        assert np.allclose(given[0, channel], expected, atol=1e-5)


def test_a_network_of_another_kind_is_refused(tmp_path: Path, repository: Path) -> None:
    file = darkness(tmp_path / "n.onnx", "u2net")
    with pytest.raises(SetupError, match=r"n\.onnx is no isnet network"):
        install_matting(str(file), "isnet", repository, QUIET)
    assert not (repository / "preprocess" / "1" / "matting_network.json").exists()


def test_what_may_not_be_used_commercially_must_be_named(repository: Path) -> None:
    with pytest.raises(SetupError, match=r"may not be used commercially .* --kind rmbg-1\.4"):
        install_matting("briaai/RMBG-1.4:onnx/model.onnx", "isnet", repository, QUIET)


def test_wrong_names_are_told(tmp_path: Path, repository: Path) -> None:
    with pytest.raises(SetupError, match="allowed: u2net, isnet, birefnet"):
        install_matting("x.onnx", "unet", repository, QUIET)
    with pytest.raises(SetupError, match="is no built repository"):
        install_matting("x.onnx", "u2net", tmp_path, QUIET)
    with pytest.raises(SetupError, match="there is no folder or file"):
        install_matting("./none.onnx", "u2net", repository, QUIET)
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(SetupError, match="is no u2net network"):
        install_matting(str(tmp_path / "text.onnx"), "u2net", repository, QUIET)
    folder = repository / "preprocess" / "1"
    (folder / "matting_network.json").write_text('{"kind": "other", "engine": "onnxruntime"}')
    with pytest.raises(EngineError, match="'other' is not known"):
        load_matting(folder)
    declared = {"kind": "u2net", "engine": "onnxruntime", "precision": "fp1"}
    (folder / "matting_network.json").write_text(json.dumps(declared))
    with pytest.raises(EngineError, match="'fp1' is not known; allowed: fp32"):
        load_matting(folder)
    for text, told in (
        ("{", "is no JSON"),
        ('{"engine": "onnxruntime"}', "lacks 'kind'"),
        ("[]", "lacks"),
    ):
        (folder / "matting_network.json").write_text(text)
        with pytest.raises(EngineError, match=rf"matting_network.json {told}"):
            load_matting(folder)
