"""Triton's `tensorrt` backend on Python: see ``backdrop_server.triton.compiled``."""

from backdrop_server.triton.compiled import CompiledModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
