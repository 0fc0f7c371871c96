"""One request on its way through the engine: what it has produced, and how it ends."""

from __future__ import annotations

import enum
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from builder.compile.openvino_ir.settings import TOKENS_PER_BLOCK
from serving.cpu_backend.request import GenerationRequest
from serving.cpu_backend.sampling import first_stop, generation_config, watched_words


class Finish(enum.Enum):
    """Why a request ended."""

    END = "end"  # the end token
    STOP = "stop"  # a stop word
    LENGTH = "length"  # max_tokens
    CANCELLED = "cancelled"
    FAILED = "failed"


@dataclass(frozen=True)
class Delta:
    """News of a request: the tokens since the last news (all of them when it does not stream)."""

    tokens: list[int]
    log_probs: list[float]  # natural logarithm, one per token; empty unless asked for
    finish: Finish | None = None  # set on the last news
    error: str = ""  # why, where finish is FAILED


Listener = Callable[[Delta], None]
"""Called on the stepping thread, so it must be quick and must not raise."""

_ids = itertools.count(1)


class Flight:
    """A submitted request. Only the stepping thread calls its methods; `cancelled` may be set by anybody."""

    def __init__(self, request: GenerationRequest, listener: Listener) -> None:
        self.request = request
        self.cancelled = False
        self.ended = False
        self.left_early = False  # by our will and not by the library's, which still holds its blocks for a step
        self.blocks = -(-request.total_tokens // TOKENS_PER_BLOCK)  # KV blocks at its longest
        self._listener = listener
        self._handle: Any = None
        self._words = watched_words(request)
        # Others need no look at their tokens before they end, so their tokens stay in the library until then.
        self._reads_each_step = request.streaming or bool(self._words)
        self._tokens: list[int] = []
        self._log_probs: list[float] = []
        self._told = 0

    def join(self, pipeline: Any) -> None:
        """Enter the running batch."""
        import numpy as np
        from openvino import Tensor
        from openvino_genai.py_openvino_genai import GenerationStatus

        self._running = GenerationStatus.RUNNING
        ids = np.asarray(self.request.input_ids, np.int64).reshape(1, -1)
        self._handle = pipeline.add_request(next(_ids), Tensor(ids), generation_config(self.request))

    def has_started(self) -> bool:
        """Whether it has its first token."""
        handle = self._handle
        return bool(self._tokens) or handle is None or handle.can_read()

    def advance(self) -> bool:
        """Take what the last step produced and tell the listener; whether the request ended."""
        if self.cancelled:
            self._leave(self._handle.cancel)
            self._end(Finish.CANCELLED)
        elif self._reads_each_step:
            if self._handle.can_read():
                self._look()
            elif self._handle.get_status() != self._running:
                self._lost()
        elif self._handle.get_status() != self._running:
            self._look()
        return self.ended

    def abandon(self, error: str | None = None) -> None:
        """End it where it stands: cancelled, or failed for the reason given."""
        if self._handle is not None:
            self._leave(self._handle.cancel)
        self._end(*((Finish.CANCELLED, "") if error is None else (Finish.FAILED, error)))

    def _look(self) -> None:
        seen, finish = len(self._tokens), self._read()
        keep = first_stop(self._tokens, self._words, seen) if self._words else None
        if keep is not None:
            del self._tokens[keep:], self._log_probs[keep:]
            self._leave(self._handle.stop)
            finish = Finish.STOP
        if finish is not None:
            self._end(finish)
        elif self.request.streaming:
            self._tell(None)
        elif not self._reads_each_step:
            self._lost()

    def _read(self) -> Finish | None:
        """Move the library's news here; how the library ended the request, if it did."""
        reason = "NONE"
        while self._handle.can_read():
            for output in self._handle.read().values():
                self._tokens += output.generated_ids
                if self.request.log_probs:
                    self._log_probs += output.generated_log_probs
                reason = output.finish_reason.name
        if reason == "STOP" and self._tokens[-1] == self.request.end_id:
            del self._tokens[-1:], self._log_probs[len(self._tokens) :]
            return Finish.END
        return {"STOP": Finish.STOP, "LENGTH": Finish.LENGTH}.get(reason)

    def _leave(self, how: Callable[[], None]) -> None:
        self.left_early = True
        how()

    def _lost(self) -> None:
        self._end(Finish.FAILED, f"the engine dropped the request ({self._handle.get_status().name})")

    def _end(self, finish: Finish, error: str = "") -> None:
        if not self.ended:
            self.ended = True
            self._tell(finish, error)
            self._handle = None

    def _tell(self, finish: Finish | None, error: str = "") -> None:
        start, self._told = self._told, len(self._tokens)
        self._listener(Delta(self._tokens[start:], self._log_probs[start:], finish, error))
