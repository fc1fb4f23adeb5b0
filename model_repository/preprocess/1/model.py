"""Triton's entry; the code is in ``backdrop_server.triton.preprocess``."""

from backdrop_server.triton.preprocess import PreprocessModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
