"""What an engine's news looks like as output tensors, in the shapes that upstream's C++ backend gives them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from serving.cpu_backend.flight import Delta
from serving.cpu_backend.inputs import Tensors, flag
from serving.cpu_backend.request import GenerationRequest


class Reply:
    """Output tensors of one request. Batch and beam dimensions are always 1."""

    def __init__(
        self, request: GenerationRequest, tensors: Tensors, wanted: Collection[str], *, exclude_input: bool
    ) -> None:
        import numpy as np

        self._int32 = np.int32
        self._float32 = np.float32
        self._array = np.array
        exclude = flag(tensors, "exclude_input_in_output", exclude_input)
        # A stream never repeats the prompt.
        self._prompt = [] if exclude or request.streaming else list(request.input_ids)
        self._num_input = len(request.input_ids)
        self._log_probs = request.log_probs and bool({"output_log_probs", "cum_log_probs"} & set(wanted))
        self._cumulated = 0.0
        self._constants = [(name, 0) for name in ("batch_index", "sequence_index") if name in wanted]
        if flag(tensors, "return_num_input_tokens") and "num_input_tokens" in wanted:
            self._constants.append(("num_input_tokens", self._num_input))
        self._counts = flag(tensors, "return_num_output_tokens") and "num_output_tokens" in wanted

    def outputs(self, delta: Delta) -> list[tuple[str, Any]]:
        """(name, array) for each output of one response; `num_output_tokens` counts this response's new tokens."""
        tokens = self._prompt + delta.tokens if self._prompt else delta.tokens
        made: list[tuple[str, Any]] = [
            ("output_ids", self._array([[tokens]], self._int32).reshape(1, 1, -1)),
            ("sequence_length", self._array([[len(tokens)]], self._int32)),
        ]
        made += [(name, self._array([[value]], self._int32)) for name, value in self._constants]
        if self._counts:
            made.append(("num_output_tokens", self._array([[len(delta.tokens)]], self._int32)))
        if self._log_probs:
            self._cumulated += sum(delta.log_probs)
            made.append(("output_log_probs", self._array([[delta.log_probs]], self._float32).reshape(1, 1, -1)))
            made.append(("cum_log_probs", self._array([[self._cumulated]], self._float32)))
        return made
