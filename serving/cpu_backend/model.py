"""Triton's python-based backend `tensorrtllm`: it serves the engine layout's model repository, unmodified, on a CPU.

This file alone is copied to `<backend-directory>/tensorrtllm/model.py`; the rest comes from the installed package. It
only translates: tensors to requests, news to responses, Triton's cancellations to the engine's.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # provided by Triton's stub

from serving.cpu_backend.engine import Engine
from serving.cpu_backend.flight import Delta, Finish, Flight
from serving.cpu_backend.inputs import flag, generation_request
from serving.cpu_backend.metrics import Gauges
from serving.cpu_backend.pacing import Pacer
from serving.cpu_backend.parameters import read_parameters
from serving.cpu_backend.pipeline import EngineOptions
from serving.cpu_backend.reply import Reply
from serving.cpu_backend.request import QueueFullError, RequestError
from trtllm_kit.errors import KitError

_FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
# How long Triton's thread waits before it asks for Python's lock in earnest. With Python's 5 ms, the stepping thread of
# a small model, which drops and takes the lock at each response, kept arrivals out for a hundred steps.
_SWITCH_INTERVAL_S = 0.00002
_THREADS_VARIABLE = "TRTLLM_KIT_CPU_THREADS"


class TritonPythonModel:
    """One engine, one stepping thread; Triton's thread only queues requests."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the engine; raises TritonModelException with what to do when that cannot be."""
        _check_numpy()
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        try:
            self._open(args)
        except KitError as error:
            raise pb_utils.TritonModelException(str(error)) from None

    def execute(self, requests: list[Any]) -> None:
        """Queue the requests. Every one is answered later, through its own response sender."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                self._accept(request, sender)
            except KitError as error:
                _send_error(sender, error)

    def finalize(self) -> None:
        """End what is in flight and free the engine."""
        self._engine.close()

    def _open(self, args: dict[str, str]) -> None:
        parameters = read_parameters(args, pb_utils.Logger.log_warn)
        options = EngineOptions(
            max_batch_size=parameters.max_batch_size or None,
            max_queue_size=parameters.max_queue_size,
            enable_block_reuse=parameters.enable_block_reuse,
            kv_tokens=parameters.kv_tokens,
            attention_window=parameters.attention_window,
            threads=_threads(),
        )
        self._parameters = parameters
        self._calls: set[_Call] = set()
        self._pacer = Pacer()
        self._engine = Engine.open(parameters.engine, options)
        self._gauges = Gauges(pb_utils, args["model_name"], args["model_version"])
        self._cancel_at = self._publish_at = 0.0
        self._engine.every(min(parameters.cancellation_period_s, parameters.stats_period_s), self._look_around)

    def _accept(self, request: Any, sender: Any) -> None:
        tensors = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        if flag(tensors, "stop"):
            self._stop(request.request_id(), sender)
            return
        wanted = generation_request(tensors)
        if wanted.streaming and not self._parameters.decoupled:
            raise RequestError(
                "Streaming is only supported if model is deployed using decoupled mode.",
                expected="decoupled_mode true in the rendered repository",
                fix="set serving.decoupled_mode and build the repository again, or send streaming false",
            )
        exclude = self._parameters.exclude_input_in_output
        reply = Reply(wanted, tensors, request.requested_output_names(), exclude_input=exclude)
        call = _Call(request.request_id(), sender, reply, self._calls, self._pacer)
        self._calls.add(call)  # before the engine can end it
        try:
            call.flight = self._engine.submit(wanted, call)
        except KitError:
            self._calls.discard(call)
            raise

    def _stop(self, request_id: str, sender: Any) -> None:
        """Upstream's `stop`: the named request ends with what it has; the stop request gets an empty answer."""
        if not request_id:
            raise RequestError(
                "Cannot send stop request without specifying a request_id",
                expected="the id of the request that is to stop",
                fix="send stop with the same request id",
            )
        for call in list(self._calls):
            if call.request_id == request_id and call.flight is not None:
                self._engine.cancel(call.flight)
        sender.send(pb_utils.InferenceResponse(output_tensors=[]), flags=_FINAL)

    def _look_around(self) -> None:
        now = time.monotonic()
        for call in list(self._calls):
            call.flush()
        if now >= self._cancel_at:
            self._cancel_at = now + self._parameters.cancellation_period_s
            for call in list(self._calls):
                if call.flight is not None and not call.gone and call.sender.is_cancelled():
                    call.gone = True
                    self._engine.cancel(call.flight)
        if now >= self._publish_at or not self._calls:
            self._publish_at = now + self._parameters.stats_period_s
            self._gauges.publish(self._engine.stats())


class _Call:
    """The engine's listener for one Triton request."""

    def __init__(self, request_id: str, sender: Any, reply: Reply, calls: set[_Call], pacer: Pacer) -> None:
        self.request_id = request_id
        self.sender = sender
        self.gone = False  # the client cancelled
        self.flight: Flight | None = None
        self._reply = reply
        self._calls = calls
        self._pacer = pacer
        self._due_at = 0.0
        self._held = Delta([], [])  # news that wait to travel together

    def __call__(self, delta: Delta) -> None:
        held = self._held
        if held.tokens:
            delta = Delta(held.tokens + delta.tokens, held.log_probs + delta.log_probs, delta.finish, delta.error)
        self._held = delta
        if delta.finish is not None:
            self._calls.discard(self)
            self._send()
        else:
            self.flush()

    def flush(self) -> None:
        """Send what is held, if there is anything and it is due."""
        if self._held.tokens and time.monotonic() >= self._due_at:
            self._send()
            self._due_at = time.monotonic() + self._pacer.interval_s(len(self._calls))

    def _send(self) -> None:
        started = time.thread_time()
        delta, self._held = self._held, Delta([], [])
        try:
            self.sender.send(self._response(delta), flags=0 if delta.finish is None else _FINAL)
        except pb_utils.TritonModelException as error:
            pb_utils.Logger.log_warn(f"request '{self.request_id}': the response could not be sent: {error}")
        self._pacer.spent(time.thread_time() - started)

    def _response(self, delta: Delta) -> Any:
        if delta.finish is Finish.FAILED:
            return _error_response(delta.error, pb_utils.TritonError.INTERNAL)
        if delta.finish is Finish.CANCELLED and self.gone:
            return _error_response("the client cancelled the request", pb_utils.TritonError.CANCELLED)
        tensors = [pb_utils.Tensor(name, value) for name, value in self._reply.outputs(delta)]
        return pb_utils.InferenceResponse(output_tensors=tensors)


def _send_error(sender: Any, error: KitError) -> None:
    code = pb_utils.TritonError.UNAVAILABLE if isinstance(error, QueueFullError) else pb_utils.TritonError.INVALID_ARG
    sender.send(_error_response(str(error), code), flags=_FINAL)


def _error_response(message: str, code: Any) -> Any:
    return pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(message, code))


def _threads() -> int:
    """Compute threads: what the deployment says, else all CPUs but one.

    With compute on every CPU, an arriving request waits for the server's own threads and joins late.
    """
    given = os.environ.get(_THREADS_VARIABLE, "")
    if given.isdigit() and int(given) > 0:
        return int(given)
    return max(len(os.sched_getaffinity(0)) - 1, 1)


def _check_numpy() -> None:
    """With numpy 2 the stub of this server sends every tensor with the right shape and none of its bytes."""
    if int(np.__version__.split(".", 1)[0]) >= 2:
        raise pb_utils.TritonModelException(
            f"numpy is {np.__version__}; the stub of this Triton server needs numpy below 2: pip install 'numpy<2'"
        )
