"""A server whose engine was built for other sizes or fewer rows says so when it starts."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from backdrop_server.errors import SetupError
from backdrop_server.plan import EngineLimits, Precision
from tests.conftest import launch

pytestmark = pytest.mark.triton


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (
            {"max_rows": 16, "heights": (8, 16)},
            r"requests may have latents of \d+x\d+ .* was built for heights 8 to 16",
        ),
        ({"max_rows": 8}, r"up to 16 rows come in one call; the engine was built for at most 8"),
    ],
)
def test_an_engine_that_does_not_fit_is_the_reason(
    repository: Path, engine: str, tmp_path: Path, limits: dict[str, object], reason: str
) -> None:
    folder = tmp_path / "repository"
    shutil.copytree(repository, folder)
    kind, _, precision = engine.rpartition("-")
    built = EngineLimits(kind, Precision(precision), f"{kind} 1", **limits)  # type: ignore[arg-type]
    (folder / "denoise" / "1" / "unet_controlnet.json").write_text(built.to_json())
    with pytest.raises(SetupError, match=f"^tritonserver did not start: model denoise: {reason}"):
        launch(folder).start()


def test_an_encoder_of_fewer_rows_is_the_reason(
    repository: Path, engine: str, tmp_path: Path
) -> None:
    folder = tmp_path / "repository"
    shutil.copytree(repository, folder)
    kind, _, precision = engine.rpartition("-")
    built = EngineLimits(kind, Precision(precision), f"{kind} 1", max_rows=4)
    (folder / "text_encoder" / "1" / "model.json").write_text(built.to_json())
    reason = "up to 8 rows come in one call; the engine was built for at most 4"
    with pytest.raises(SetupError, match=f"model text_encoder: {reason}"):
        launch(folder).start()
