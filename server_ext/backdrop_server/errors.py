"""The two kinds of error, the caller's fault and ours; the wire mapping lives with each transport."""

from __future__ import annotations


class BackdropError(Exception):
    """Base of every error that Backdrop raises on purpose; its text is safe to show a caller."""


class InvalidInputError(BackdropError):
    """The caller's fault: one sentence that names the field, the problem and what is allowed."""

    def __init__(self, field: str, problem: str, allowed: str) -> None:
        self.field = field
        self.problem = problem
        self.allowed = allowed
        super().__init__(f"{field}: {problem}; allowed: {allowed}")


class UnavailableError(BackdropError):
    """The server is full or not ready; the same request may succeed later."""


class CancelledError(BackdropError):
    """The request was cancelled by its owner."""


class EngineError(BackdropError):
    """An engine file is missing, damaged, or was asked for a shape or type it was not built for."""


class SetupError(BackdropError):
    """Something that the machine needs is missing or taken; the text says what and how to get it."""
