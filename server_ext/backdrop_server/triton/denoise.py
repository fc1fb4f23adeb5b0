"""Triton entry of `denoise`: each step is one UNet evaluation for all requests in flight.

Triton's iterative sequence batching is the queue: a request that is not finished is released with
RESCHEDULE and comes back in the next call, beside whatever has arrived since. While all that have a
state are here and the board shows that nobody is on the way, that detour (1.4 ms) is left out and the
same requests take their next step.
On a device a step is queued and the one before waited for; what a step gave lands on the host one step
later, and a request whose last step is queued goes round once more for it.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import triton_python_backend_utils as pb_utils

from backdrop_server import contract
from backdrop_server.engines.engine import Precision, first_line
from backdrop_server.engines.limits import check_fits
from backdrop_server.engines.loading import load_engine
from backdrop_server.engines.network import as_network
from backdrop_server.engines.padding import padding_rows
from backdrop_server.errors import CancelledError
from backdrop_server.plan import BundleFacts, Plan
from backdrop_server.stages import batches, denoise
from backdrop_server.stages.batches import Batch
from backdrop_server.stages.denoise import State
from backdrop_server.stages.report import denoise_report
from backdrop_server.stages.schedulers import SchedulerFactory
from backdrop_server.stages.transfers import download, upload
from backdrop_server.stages.turns import Turns
from backdrop_server.triton.beginning import Beginning
from backdrop_server.triton.board import Board, Cancelled, Stage, board_path
from backdrop_server.triton.cores import cores_for
from backdrop_server.triton.gathering import Gathering
from backdrop_server.triton.job import Job, Landing
from backdrop_server.triton.metrics import LoopMetrics
from backdrop_server.triton.pacing import Lane, Stopwatch, end_process_soon
from backdrop_server.triton.tensors import error_response, parameter, read_scalar, response

PREVIEW_EVERY = 0.25
"""Seconds between two previews of a request."""
FORGET_AFTER = 120.0
"""Seconds after which a request that Triton dropped between two steps is forgotten."""


class DenoiseModel:
    """The requests in flight by correlation id, and the engine that serves them."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the engine and what the bundle says from the model's folder."""
        folder = Path(args["model_repository"], args["model_version"])
        config = json.loads(args["model_config"])
        self._row_limit = int(parameter(config, "row_limit"))
        precision = Precision(parameter(config, "precision"))
        kind = parameter(config, "engine")
        schedulers = SchedulerFactory(json.loads((folder / "scheduler_config.json").read_text()))
        self._engine = load_engine(kind, folder / "unet_controlnet", precision)
        if self._engine.limits is not None:
            facts = BundleFacts.from_json((folder / "bundle.json").read_text())
            check_fits(self._engine.limits, self._row_limit, _latent_sizes(facts))
        self._network = as_network(self._engine)
        self._lane = Lane(self._engine.device)
        with self._lane.open():
            self._beginning = Beginning(folder, self._lane, schedulers)
            self._preview = self._load_preview(folder)
        schedulers.wait()
        torch.set_num_threads(1)  # sampler arithmetic is small; the engine has its own threads
        self._board = Board(board_path(os.getppid()))
        self._cores = cores_for(self._engine.device, board_path(os.getppid()))
        self._jobs: dict[int, Job] = {}
        self._gathering = Gathering(self._board, self._jobs)
        self._turns = Turns(self._row_limit)
        self._left: set[int] = set()
        self._has_given_up = False
        self._metrics = LoopMetrics()

    def _load_preview(self, folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
        with np.load(folder / "preview.npz") as preview:
            arrays = (preview["matrix"], preview["bias"])
        matrix, bias = (upload(torch.from_numpy(array), self._lane.device) for array in arrays)
        return matrix, bias

    def execute(self, requests: list[Any]) -> None:
        """Step those whose turn it is until one ends or another comes; reschedule the rest.

        Nobody steps while others of the last call are missing, for 20 ms at most.
        """
        if not self._gathering.begins(requests):
            return
        # Once a call: to ask Triton is a message to it. A cancel by the board is seen at every step.
        self._left = {one.correlation_id() for one in requests if one.is_cancelled()}
        with self._lane.open(), torch.inference_mode():
            going = self._round(requests)
            while len(going) == len(requests) and self._gathering.stays(going):
                going = self._round(going)
        self._gathering.end(going)
        self._forget_lost(self._gathering.begun_at - FORGET_AFTER)
        self._metrics.publish(len(self._jobs))

    def _round(self, requests: list[Any]) -> list[Any]:
        """Evaluate the UNet for those whose turn it is; answer those that end, give the others."""
        cancelled = self._board.cancelled()
        admitted = [(request, self._admit(request, cancelled)) for request in requests]
        jobs = [(request, job) for request, job in admitted if job is not None]
        states = [job.state for _, job in jobs if job.state is not None]
        outcomes = self._step([state for state in states if not state.finished])
        done = self._lane.wait(bool(outcomes))
        if not isinstance(done, Exception):
            self._metrics.note_done(done)
        going = []
        for request, job in jobs:
            try:
                if self._goes_on(request, job, outcomes.get(id(job.state)), done):
                    going.append(request)
            except Exception as error:  # a raise would fail every request of this call
                self._fail(request, error, job.plan.request_id)
        if isinstance(done, Exception) and not self._has_given_up:
            self._give_up(done)
        return going

    def _give_up(self, error: Exception) -> None:
        """A CUDA error stays for as long as its process: only a new one can serve again."""
        self._has_given_up = True
        reason = f"the device failed ({first_line(error)})"
        pb_utils.Logger.log_error(f"denoise: {reason}; this process ends, to be started anew")
        end_process_soon()

    def _goes_on(
        self, request: Any, job: Job, outcome: Landing | Exception | None, done: int | Exception
    ) -> bool:
        """Whether the request has steps left; answers it if not."""
        if isinstance(outcome, Exception):
            raise outcome
        if isinstance(done, Exception):
            raise done
        if outcome is not None:
            job.landings.append(outcome)
        while job.landings and job.landings[0].call <= done:
            self._land(job, job.landings.pop(0))
        if job.state is not None and (job.landings or not job.state.finished):
            return True
        self._finish(request, job)
        return False

    def _land(self, job: Job, landing: Landing) -> None:
        """Take over what one step of ``job.state`` gave, now that it is on the host."""
        if landing.finite is not None:
            denoise.check_finite(landing.finite)
        if landing.latents is not None:
            job.latents = landing.latents
        seconds = landing.stopwatch.seconds() * landing.share
        if job.state is not None:
            job.state.engine_seconds += seconds
            seconds = job.state.engine_seconds
        preview = None if landing.preview is None else landing.preview.numpy()
        self._board.post_step(job.plan.request_id, landing.evaluations, seconds, preview)

    def _admit(self, request: Any, cancelled: Cancelled) -> Job | None:
        """The request's job, begun if it is new; None when it got an error and is gone."""
        job = self._jobs.get(request.correlation_id())
        try:
            if job is None:
                job = self._begin(request)
            if request.correlation_id() in self._left or job.plan.request_id in cancelled:
                raise CancelledError("the request was cancelled")
        except Exception as error:
            self._fail(request, error, None if job is None else job.plan.request_id)
            return None
        job.seen_at = time.monotonic()
        return job

    def _begin(self, request: Any) -> Job:
        plan = Plan.from_json(read_scalar(request, contract.PLAN))
        try:
            job = self._beginning.job(request, plan)
            self._board.run(plan.request_id, 0 if job.state is None else job.state.total)
        except Exception:
            self._board.give_up(plan.request_id)
            raise
        self._jobs[request.correlation_id()] = job
        if job.state is not None:
            self._turns.enter(job.state)
        return job

    def _step(self, states: Sequence[State]) -> dict[int, Landing | Exception]:
        """A step of UNet and sampler for those whose turn it is; outcomes by ``id`` of the state."""
        outcomes: dict[int, Landing | Exception] = {}
        for group in self._turns.take(states):
            self._step_group(group, outcomes)
        return outcomes

    def _step_group(self, group: Sequence[State], outcomes: dict[int, Landing | Exception]) -> None:
        try:
            batch = batches.gather(group)
            with self._cores():
                stopwatch = self._lane.stopwatch()
                noise = batches.predict(batch, self._unet, self._row_limit)
                stopwatch.stop()
        except Exception as error:
            if len(group) == 1:
                outcomes[id(group[0])] = error
            else:  # find the one at fault without hurting the others
                for state in group:
                    self._step_group([state], outcomes)
            return
        rows = sum(state.rows for state in group)
        for state, own in zip(group, batches.split(group, noise), strict=True):
            share = state.rows / rows
            try:
                outcomes[id(state)] = self._advance(state, own, stopwatch, share)
            except Exception as error:
                outcomes[id(state)] = error
                continue
            state.engine_calls += math.ceil(rows / self._row_limit) * share
            state.shared_rows += rows

    def _advance(
        self, state: State, noise: torch.Tensor, stopwatch: Stopwatch, share: float
    ) -> Landing:
        """Take the sampler's step and send what the host needs of it on its way."""
        preview = self._preview_if_due(state)
        denoise.advance(state, noise)
        return Landing(
            call=self._lane.pace.call,
            evaluations=state.evaluations,
            preview=preview,
            finite=None if state.finite is None else download(state.finite),
            latents=download(state.latents) if state.finished else None,
            stopwatch=stopwatch,
            share=share,
        )

    def _preview_if_due(self, state: State) -> torch.Tensor | None:
        now = time.monotonic()
        if now < state.preview_due_at:
            return None
        state.preview_due_at = now + PREVIEW_EVERY
        return download(denoise.preview(state, *self._preview))

    def _unet(self, batch: Batch) -> torch.Tensor:
        rows = len(batch["timestep"])
        self._metrics.note_call(rows, padding_rows(self._engine, rows))
        stopwatch = self._lane.stopwatch()
        noise = self._network(batch)
        stopwatch.stop()
        self._metrics.note_time(self._lane.pace.call, stopwatch)
        return noise

    def _finish(self, request: Any, job: Job) -> None:
        report = denoise_report(
            job.state, job.edge_encoder_seconds, job.started_at, time.monotonic()
        )
        self._board.move(job.plan.request_id, Stage.FINISHING)
        latents = job.latents.numpy()
        self._release(
            request, response({contract.LATENTS: latents, contract.DENOISE_REPORT: report})
        )

    def _fail(self, request: Any, error: Exception, request_id: str | None) -> None:
        if request_id is not None:
            self._board.move(request_id, Stage.ENDED)
        self._release(request, error_response(error))

    def _release(self, request: Any, answer: Any) -> None:
        self._jobs.pop(request.correlation_id(), None)
        self._metrics.publish(len(self._jobs))  # who has the answer finds it counted
        request.set_release_flags(pb_utils.TRITONSERVER_REQUEST_RELEASE_ALL)
        flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
        request.get_response_sender().send(answer, flags=flags)

    def _forget_lost(self, oldest: float) -> None:
        for correlation_id, job in list(self._jobs.items()):
            if job.seen_at < oldest:
                self._board.move(job.plan.request_id, Stage.ENDED)
                del self._jobs[correlation_id]


def _latent_sizes(facts: BundleFacts) -> list[tuple[int, int]]:
    """Latent height and width of every picture size that a request may get."""
    # Here, since only an engine with limits needs what the picture code brings with it.
    from backdrop_server.working_sizes import working_sizes

    factor = facts.vae_scale_factor
    return [(h // factor, w // factor) for w, h in working_sizes(facts.native_pixels)]
