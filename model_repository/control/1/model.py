"""Triton's entry; the code is in ``backdrop_server.triton.control``."""

from backdrop_server.triton.control import ControlModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
