"""Triton entry of `denoise`: one call of ``execute`` is one UNet evaluation for all in flight.

Triton's iterative sequence batching is the queue: a request that is not finished is released with
RESCHEDULE and comes back in the next call, beside whatever has arrived since.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import triton_python_backend_utils as pb_utils

from backdrop_server import contract
from backdrop_server.engines.engine import Precision
from backdrop_server.engines.loading import load_engine
from backdrop_server.errors import CancelledError
from backdrop_server.plan import BundleFacts, Plan
from backdrop_server.stages import denoise
from backdrop_server.stages.denoise import Batch, Encoded, State
from backdrop_server.stages.report import denoise_report
from backdrop_server.stages.schedulers import SchedulerFactory
from backdrop_server.triton.board import Board, Stage, board_path
from backdrop_server.triton.tensors import error_response, parameter, read, read_scalar, response

FORGET_AFTER = 120.0
"""Seconds after which a request that Triton dropped between two steps is forgotten."""


@dataclasses.dataclass
class Job:
    """A request in flight: its state, or None when there is nothing to denoise."""

    plan: Plan
    state: State | None
    started_at: float
    seen_at: float
    latent_shape: tuple[int, ...]


class DenoiseModel:
    """The requests in flight by correlation id, and the engine that serves them."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the engine and what the bundle says from the model's folder."""
        folder = Path(args["model_repository"], args["model_version"])
        config = json.loads(args["model_config"])
        self._row_limit = int(parameter(config, "row_limit"))
        self._facts = BundleFacts.from_json((folder / "bundle.json").read_text())
        scheduler_config = json.loads((folder / "scheduler_config.json").read_text())
        self._schedulers = SchedulerFactory(scheduler_config)
        with np.load(folder / "preview.npz") as preview:
            self._preview = (preview["matrix"], preview["bias"])
        precision = Precision(parameter(config, "precision"))
        kind = parameter(config, "engine")
        self._engine = load_engine(kind, folder / "unet_controlnet", precision)
        torch.set_num_threads(1)  # sampler arithmetic is small; the engine has its own threads
        self._board = Board(board_path(os.getppid()))
        self._jobs: dict[int, Job] = {}
        self._engine_calls = _metric("backdrop_engine_calls_total", "Calls of unet_controlnet")
        self._engine_rows = _metric("backdrop_engine_rows_total", "Rows in all those calls")
        self._in_flight = _metric(
            "backdrop_requests_in_loop", "Requests that have a state now", counter=False
        )

    def execute(self, requests: list[Any]) -> None:
        """Evaluate the UNet once for every request that is alive, then answer or reschedule it."""
        begun_at = time.monotonic()
        admitted = [(request, self._admit(request)) for request in requests]
        jobs = [(request, job) for request, job in admitted if job is not None]
        failures = self._step([job.state for _, job in jobs if job.state is not None])
        for request, job in jobs:
            try:
                self._answer_or_go_on(request, job, failures.get(id(job.state)))
            except Exception as error:  # a raise would fail every request of this call
                self._fail(request, error, job.plan.request_id)
        self._forget_lost(begun_at - FORGET_AFTER)
        self._in_flight[0].set(len(self._jobs))

    def _answer_or_go_on(self, request: Any, job: Job, error: Exception | None) -> None:
        if error is not None:
            raise error
        if job.state is None or job.state.finished:
            self._finish(request, job)
        else:
            request.set_release_flags(pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE)

    def _admit(self, request: Any) -> Job | None:
        """The request's job, begun if it is new; None when it got an error and is gone."""
        job = self._jobs.get(request.correlation_id())
        try:
            if job is None:
                job = self._begin(request)
            if request.is_cancelled() or self._board.is_cancelled(job.plan.request_id):
                raise CancelledError("the request was cancelled")
        except Exception as error:
            self._fail(request, error, None if job is None else job.plan.request_id)
            return None
        job.seen_at = time.monotonic()
        return job

    def _begin(self, request: Any) -> Job:
        plan = Plan.from_json(read_scalar(request, contract.PLAN))
        try:
            job = self._make_job(request, plan)
            self._board.run(plan.request_id, 0 if job.state is None else job.state.total)
        except Exception:
            self._board.give_up(plan.request_id)
            raise
        self._jobs[request.correlation_id()] = job
        return job

    def _make_job(self, request: Any, plan: Plan) -> Job:
        encoded = _read_encoded(request)
        state = None
        if not plan.keeps_photo:
            state = denoise.start(plan, encoded, self._facts, self._schedulers)
        now = time.monotonic()
        shape = (plan.samples, self._facts.latent_channels, *encoded.latent_mask.shape)
        return Job(plan, state, started_at=now, seen_at=now, latent_shape=shape)

    def _step(self, states: Sequence[State]) -> dict[int, Exception]:
        """One evaluation and one sampler step for each state; errors by ``id`` of the state."""
        failures: dict[int, Exception] = {}
        for group in denoise.group_by_size(states):
            self._step_group(group, failures)
        return failures

    def _step_group(self, group: Sequence[State], failures: dict[int, Exception]) -> None:
        begun = time.monotonic()
        try:
            noises = denoise.evaluate(group, self._unet, self._row_limit)
        except Exception as error:
            if len(group) == 1:
                failures[id(group[0])] = error
            else:  # find the one at fault without hurting the others
                for state in group:
                    self._step_group([state], failures)
            return
        seconds = time.monotonic() - begun
        rows = sum(state.rows for state in group)
        for state, noise in zip(group, noises, strict=True):
            try:
                preview = denoise.preview(state, *self._preview)
                denoise.advance(state, noise)
                self._board.post_step(state.plan.request_id, state.evaluations, preview)
            except Exception as error:
                failures[id(state)] = error
                continue
            share = state.rows / rows
            state.engine_seconds += seconds * share
            state.engine_calls += math.ceil(rows / self._row_limit) * share
            state.shared_rows += rows

    def _unet(self, batch: Batch) -> npt.NDArray[np.float32]:
        self._engine_calls[0].increment(1)
        self._engine_rows[0].increment(len(batch["timestep"]))
        noise: npt.NDArray[np.float32] = self._engine.run(batch)["noise_pred"]
        return noise

    def _finish(self, request: Any, job: Job) -> None:
        shape = job.latent_shape
        latents = np.zeros(shape, np.float32) if job.state is None else job.state.latents.numpy()
        report = denoise_report(job.state, job.started_at, time.monotonic())
        self._board.move(job.plan.request_id, Stage.FINISHING)
        self._release(
            request, response({contract.LATENTS: latents, contract.DENOISE_REPORT: report})
        )

    def _fail(self, request: Any, error: Exception, request_id: str | None) -> None:
        if request_id is not None:
            self._board.move(request_id, Stage.ENDED)
        self._release(request, error_response(error))

    def _release(self, request: Any, answer: Any) -> None:
        self._jobs.pop(request.correlation_id(), None)
        request.set_release_flags(pb_utils.TRITONSERVER_REQUEST_RELEASE_ALL)
        flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
        request.get_response_sender().send(answer, flags=flags)

    def _forget_lost(self, oldest: float) -> None:
        for correlation_id, job in list(self._jobs.items()):
            if job.seen_at < oldest:
                self._board.move(job.plan.request_id, Stage.ENDED)
                del self._jobs[correlation_id]


def _read_encoded(request: Any) -> Encoded:
    """All inputs but the plan, by the names that ``Encoded`` has too."""
    tensors = contract.DENOISE.inputs[1:]
    arrays: dict[str, Any] = {tensor.name: read(request, tensor) for tensor in tensors}
    return Encoded(**arrays)


def _metric(name: str, description: str, *, counter: bool = True) -> tuple[Any, Any]:
    """A metric on Triton's own page, and its family, which must live as long as it does."""
    kinds = pb_utils.MetricFamily
    kind = kinds.COUNTER if counter else kinds.GAUGE
    family = kinds(name=name, description=description, kind=kind)
    return family.Metric(labels={"model": "denoise"}), family
