"""Triton's entry; the code is in ``backdrop_server.triton.cutout``."""

from backdrop_server.triton.cutout import CutoutModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
