"""The Python client of Backdrop: over REST ``Backdrop`` and ``AsyncBackdrop``, or Triton itself."""

from backdrop_client.aio import AsyncBackdrop, AsyncJob
from backdrop_client.client import Backdrop, Job
from backdrop_client.errors import (
    BackdropError,
    InvalidInput,
    JobCancelled,
    JobFailed,
    MissingExtra,
    NotEnoughCredits,
    NotFound,
    Overloaded,
    ServerFailed,
    ServerUnreachable,
    TimedOut,
    Unauthorized,
)
from backdrop_client.results import Progress, Quote, Result, Status

__all__ = [
    "AsyncBackdrop",
    "AsyncJob",
    "Backdrop",
    "BackdropError",
    "InvalidInput",
    "Job",
    "JobCancelled",
    "JobFailed",
    "MissingExtra",
    "NotEnoughCredits",
    "NotFound",
    "Overloaded",
    "Progress",
    "Quote",
    "Result",
    "ServerFailed",
    "ServerUnreachable",
    "Status",
    "TimedOut",
    "Unauthorized",
]
