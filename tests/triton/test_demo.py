"""What `make demo` runs, on the demo bundle; and one of its pictures against diffusers."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import tritonclient.grpc as grpcclient
from PIL import Image

from backdrop_client.triton import replace
from tests import pictures
from tests.conftest import BUILD, launch
from tests.triton.reference import Reference
from tests.triton.test_parity import OUTPUTS, PARITY_DB, fields_of

pytestmark = pytest.mark.triton


@pytest.fixture(scope="module")
def demo_bundle() -> Path:
    from backdrop_export.synthetic import make_bundle

    return make_bundle("demo", BUILD / "bundles" / "demo")


@pytest.fixture(scope="module")
def demo_repository(demo_bundle: Path, engine: str) -> Path:
    from backdrop_export.repository import export_repository

    return export_repository(demo_bundle, engine, BUILD)


def test_the_demo_makes_its_pictures_and_leaves_nothing(
    demo_repository: Path, tmp_path: Path
) -> None:
    command = [str(Path(sys.executable).parent / "backdrop"), "demo"]
    options = ["--repository", str(demo_repository), "--out", str(tmp_path)]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "(equal)" in done.stderr
    assert (tmp_path / "grpc.png").read_bytes() == (tmp_path / "http.png").read_bytes()
    with Image.open(tmp_path / "grpc.png") as picture:
        assert picture.size == (1024, 1024)
    with Image.open(tmp_path / "comparison.png") as strip:
        assert strip.height == 512


def test_a_picture_of_the_demo_bundle_takes_under_20_s_and_equals_diffusers(
    demo_bundle: Path, demo_repository: Path
) -> None:
    fields = fields_of(num_inference_steps=25)
    with (
        launch(demo_repository) as server,
        grpcclient.InferenceServerClient(server.grpc_url) as client,
    ):
        begun = time.monotonic()
        answer = replace(client, grpcclient, outputs=OUTPUTS, **fields)
        assert time.monotonic() - begun < 20
    expected = Reference(demo_bundle).picture(fields, answer, answer.seeds[0])
    assert answer.report["unet_evaluations"] == 49
    assert pictures.psnr(pictures.decode(answer.images[0]), expected) >= PARITY_DB
