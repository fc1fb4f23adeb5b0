"""Triton's entry; the code is in ``backdrop_server.triton.denoise``."""

from backdrop_server.triton.denoise import DenoiseModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
