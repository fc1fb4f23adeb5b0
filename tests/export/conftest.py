"""A tiny bundle and its export, made fresh in a temporary folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from backdrop_export.bundles import Bundle
from backdrop_export.engines import ENGINE_KINDS, Network, load_network
from backdrop_export.onnx_graphs import graphs_folder
from backdrop_export.repository import export_repository
from backdrop_export.synthetic import make_bundle


@dataclasses.dataclass(frozen=True)
class Export:
    bundle: Bundle
    out: Path
    repository: Path

    @property
    def graphs(self) -> Path:
        """The folder of the ONNX files."""
        return graphs_folder(self.bundle, "fp32", self.out)

    def network(self, graph: str) -> Network:
        return load_network(ENGINE_KINDS["onnxruntime-fp32"], self.graphs / f"{graph}.onnx")


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread() -> Iterator[None]:
    """The tiny bundle's layers are too small to share, and threads that wait in vain are slow."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle.open(make_bundle("tiny", tmp_path_factory.mktemp("bundles") / "tiny"))


@pytest.fixture(scope="session")
def export(tiny: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Export:
    out = tmp_path_factory.mktemp("build")
    return Export(tiny, out, export_repository(tiny.path, "onnxruntime-fp32", out))
