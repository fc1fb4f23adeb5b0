"""Triton's entry; the code is in ``backdrop_server.triton.postprocess``."""

from backdrop_server.triton.postprocess import PostprocessModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
