"""``Backdrop.triton(...)``: the same calls over Triton's gRPC, without a gateway between."""

from __future__ import annotations

import contextlib
import re
import threading
import time
import uuid
from concurrent.futures import Future, wait
from types import TracebackType
from typing import Any

from backdrop_client.errors import (
    BackdropError,
    MissingExtra,
    Overloaded,
    ServerFailed,
    ServerUnreachable,
    TimedOut,
    error_of_job,
    invalid,
)
from backdrop_client.fields import FLAGS, INTEGERS, NUMBERS, PICTURES, Picture, is_link, loaded
from backdrop_client.flows import OnProgress
from backdrop_client.results import Progress, Result, Status

_ADDRESS = re.compile(r"[^\s/@]+:[0-9]{1,5}")
_LOOK_AGAIN = 0.1
_CLOSE_SECONDS = 30.0
"""In which cancelled requests must have come back before the connection is closed."""
_MAX_FETCHED = 32 * 1024 * 1024
_STATES = {"running": "PROCESSING", "finishing": "PROCESSING"}


class TritonBackdrop:
    """A client of a Triton, at ``host:port`` of its gRPC; ``Backdrop.triton`` makes it.

    There are no keys, no bills and no durable jobs: a request ends with this process. URLs of
    pictures are fetched here. Raises InvalidInput, and MissingExtra without tritonclient.
    """

    def __init__(self, url: str) -> None:
        try:
            import tritonclient.grpc as grpcclient

            from backdrop_client import triton
        except ModuleNotFoundError:
            sentence = "tritonclient is not installed; get it with: pip install 'backdrop[triton]'"
            raise MissingExtra(sentence) from None
        if not _ADDRESS.fullmatch(url):
            raise invalid("triton", f"{url!r:.100} is no address", "host:port of Triton's gRPC")
        self._module: Any = grpcclient
        self._tensors = triton
        self._url = url
        self._grpc: Any = grpcclient.InferenceServerClient(url)
        self._open: set[TritonJob] = set()
        self._lock = threading.Lock()

    def replace(
        self,
        *,
        image: Picture,
        ref_image: Picture,
        prompt: str,
        on_progress: OnProgress | None = None,
        timeout: float | None = None,
        **fields: Any,
    ) -> Result:
        """See ``Backdrop.replace``; the result's ``cost`` is None."""
        job = self.submit(image=image, ref_image=ref_image, prompt=prompt, **fields)
        try:
            return job.wait(timeout, on_progress)
        except BaseException as error:
            if isinstance(error, TimedOut) or not isinstance(error, BackdropError):
                with contextlib.suppress(BackdropError):
                    job.cancel()
            raise

    def submit(
        self, *, image: Picture, ref_image: Picture, prompt: str, **fields: Any
    ) -> TritonJob:
        """As ``replace``, without waiting."""
        given = {"image": image, "ref_image": ref_image, "prompt": prompt, **fields}
        inputs = [
            self._tensors.infer_inputs(self._module, {name: _checked(name, value)})[0]
            for name, value in loaded(given).items()
        ]
        job = TritonJob(self, uuid.uuid4().hex)
        self._send(job, inputs)
        return job

    def close(self) -> None:
        """Cancel what is open, wait for it to come back, close the connection.

        Not the other way round: Triton 24.10 crashes on gRPC calls that vanish.
        """
        with self._lock:
            left = list(self._open)
        for job in left:
            with contextlib.suppress(BackdropError):
                job.cancel()
        wait([job._answer for job in left], _CLOSE_SECONDS)
        self._grpc.close()

    def __enter__(self) -> TritonBackdrop:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Backdrop.triton({self._url!r})"

    def _send(self, job: TritonJob, inputs: list[Any]) -> None:
        with self._lock:
            self._open.add(job)
        self._grpc.async_infer(
            self._tensors.MODEL,
            inputs,
            job._finish,
            request_id=job.request_id,
            outputs=[self._module.InferRequestedOutput(name) for name in self._tensors.OUTPUTS],
        )

    def _control(self, action: str, request_id: str) -> dict[str, Any]:
        """What the model `control` says of a request, with ``preview``: a PNG file or no bytes."""
        inputs = self._tensors.control_inputs(self._module, action, request_id)
        try:
            return self._tensors.read_control(self._grpc.infer(self._tensors.CONTROL, inputs))
        except Exception as error:
            raise self._named(error) from None

    def _named(self, error: Exception) -> Exception:
        """Triton's error as ours; what is none of Triton's as it is."""
        from tritonclient.utils import InferenceServerException

        if not isinstance(error, InferenceServerException):
            return error
        sentence, status = self._tensors.sentence_of(error), str(error.status())
        if "UNAVAILABLE" in status and "retry later" not in sentence:
            return ServerUnreachable(f"no answer from {self._url}: {sentence}")
        kinds = {"UNAVAILABLE": Overloaded, "INTERNAL": ServerFailed}
        kind = kinds.get(status.rpartition(".")[2])
        return error_of_job(sentence) if kind is None else kind(sentence)


class TritonJob:
    """A request that Triton has; ``request_id`` is its id there."""

    def __init__(self, client: TritonBackdrop, request_id: str) -> None:
        self._client = client
        self._answer: Future[Result] = Future()
        self.request_id = request_id

    def status(self) -> Status:
        """See ``Job.status``."""
        seen = self._client._control("status", self.request_id)
        progress = Progress(seen["step"], seen["total"], seen["preview"] or None)
        if not self._answer.done():
            return Status(_STATES.get(seen["stage"], "QUEUED"), progress)
        error = self._answer.exception()
        state = "COMPLETED" if error is None else "FAILED"
        return Status(state, progress, None if error is None else str(error))

    def wait(self, timeout: float | None = None, on_progress: OnProgress | None = None) -> Result:
        """See ``Job.wait``."""
        ends_at = None if timeout is None else time.monotonic() + timeout
        told = None
        while True:
            if on_progress is not None:
                seen = self.status().progress
                if seen != told:
                    told = seen
                    on_progress(seen)
            wait([self._answer], _LOOK_AGAIN)
            if self._answer.done():
                break
            if ends_at is not None and time.monotonic() > ends_at:
                raise TimedOut(f"the job {self.request_id} has not ended within {timeout} s")
        result = self._answer.result()
        if on_progress is not None:
            total = int(result.report["unet_evaluations"])
            on_progress(Progress(total, total))
        return result

    def cancel(self) -> Status:
        """Cancel it; it ends within two steps."""
        self._client._control("cancel", self.request_id)
        return self.status()

    def __repr__(self) -> str:
        return f"TritonJob({self.request_id!r})"

    def _finish(self, result: Any, error: Exception | None) -> None:
        """Called by tritonclient in a thread of its own."""
        try:
            if error is not None:
                raise self._client._named(error)
            self._answer.set_result(self._result_of(result))
        except Exception as failure:  # it is for whoever waits
            self._answer.set_exception(failure)
        with self._client._lock:
            self._client._open.discard(self)

    def _result_of(self, result: Any) -> Result:
        answer = self._client._tensors.read_result(result)
        return Result(answer.images, answer.seeds, answer.report, None, self.request_id)


def _checked(name: str, value: Any) -> Any:
    """The value as its tensor takes it: numpy would cut 2.5 to 2, and take True for 1."""
    if name in PICTURES:
        return _fetched(name, value) if is_link(value) else value
    if name == "webhook_url":
        raise invalid(name, "Triton calls nobody", "webhook_url over REST only")
    if name in FLAGS:
        return _of_kind(name, value, isinstance(value, bool), "true, false")
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if name in INTEGERS:
        is_whole = is_number and (isinstance(value, int) or value.is_integer())
        bits = 63 if name == "seed" else 31
        is_whole = is_whole and abs(value) < 2**bits
        return int(_of_kind(name, value, is_whole, f"a whole number of {bits} bits"))
    if name in NUMBERS:
        return _of_kind(name, value, is_number, "a number")
    return _of_kind(name, value, isinstance(value, str), "text")


def _of_kind(name: str, value: Any, is_right: bool, allowed: str) -> Any:
    if not is_right:
        raise invalid(name, f"it is {value!r:.60}", allowed)
    return value


def _fetched(name: str, link: str) -> bytes:
    """What a URL leads to; a data URI is left to Triton."""
    if link[:5].lower() == "data:":
        return link.encode()
    import httpx

    try:
        with httpx.stream("GET", link, follow_redirects=True, timeout=30) as response:
            response.raise_for_status()
            return _read_bounded(name, response)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise invalid(name, f"its URL cannot be fetched ({error})", "a URL of a picture") from None


def _read_bounded(name: str, response: Any) -> bytes:
    data = bytearray()
    for part in response.iter_bytes():
        data += part
        if len(data) > _MAX_FETCHED:
            raise invalid(name, "what its URL leads to is too large", f"{_MAX_FETCHED} bytes")
    return bytes(data)
