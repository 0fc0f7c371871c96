"""What a completion is called in each family of model repository: one row per family.

The engine family speaks in batches and sends deltas with counts; the llmapi family takes one prompt, sends the text so
far with every response, and counts nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from serving.client.request import Request

Value = bool | int | float | str


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Names and habits of one repository family."""

    model: str  # the model that completes
    batched: bool  # tensors have a leading batch dimension
    names: Mapping[str, tuple[str, str]]  # field of Request -> (tensor, data type)
    always: Mapping[str, bool]  # flags sent with every request
    text: str | None  # output that holds text
    cumulative: bool  # whether that text is all text so far
    ids: str | None = None
    tokens: str | None = None  # output with this response's token count
    input_tokens: str | None = None
    stop_model: str | None = None  # model that takes `stop` for a request id

    def tensors(self, request: Request) -> list[tuple[str, str, list[Value]]]:
        """(name, data type, values) of what is sent; absent fields are left out."""
        rows: list[tuple[str, str, list[Value]]] = []
        for field_name, (tensor, dtype) in self.names.items():
            value = getattr(request, field_name)
            if value is None or value == ():
                continue
            rows.append((tensor, dtype, list(value) if isinstance(value, tuple) else [value]))
        if request.input_ids is not None and "input_ids" in self.names:
            rows.append(("input_lengths", "INT32", [len(request.input_ids)]))
        for name, flag in self.always.items():
            rows.append((name, "BOOL", [flag]))
        return rows


_ENGINE_NAMES = {
    "prompt": ("text_input", "BYTES"),
    "max_tokens": ("max_tokens", "INT32"),
    "stream": ("stream", "BOOL"),
    "temperature": ("temperature", "FP32"),
    "top_k": ("top_k", "INT32"),
    "top_p": ("top_p", "FP32"),
    "seed": ("seed", "UINT64"),
    "repetition_penalty": ("repetition_penalty", "FP32"),
    "min_tokens": ("min_tokens", "INT32"),
    "stop_words": ("stop_words", "BYTES"),
    "end_id": ("end_id", "INT32"),
}
# Without `exclude_input_in_output` a plain response holds the prompt, and its count too: input counted as output.
_ENGINE_FLAGS = {"exclude_input_in_output": True, "return_num_input_tokens": True, "return_num_output_tokens": True}

LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {
        "engine": Layout(
            model="ensemble",
            batched=True,
            names=_ENGINE_NAMES,
            always=_ENGINE_FLAGS,
            text="text_output",
            cumulative=False,
            tokens="num_output_tokens",
            input_tokens="num_input_tokens",
            stop_model="tensorrt_llm",
        ),
        "tokens": Layout(
            model="tensorrt_llm",
            batched=True,
            names={
                "input_ids": ("input_ids", "INT32"),
                "max_tokens": ("request_output_len", "INT32"),
                "stream": ("streaming", "BOOL"),
                "temperature": ("temperature", "FP32"),
                "top_k": ("runtime_top_k", "INT32"),
                "top_p": ("runtime_top_p", "FP32"),
                "seed": ("seed", "UINT64"),
                "repetition_penalty": ("repetition_penalty", "FP32"),
                "min_tokens": ("min_tokens", "INT32"),
                "end_id": ("end_id", "INT32"),
            },
            always=_ENGINE_FLAGS,
            text=None,
            cumulative=False,
            ids="output_ids",
            tokens="num_output_tokens",
            input_tokens="num_input_tokens",
            stop_model="tensorrt_llm",
        ),
        "llmapi": Layout(
            model="tensorrt_llm",
            batched=False,
            names={
                "prompt": ("text_input", "BYTES"),
                "stream": ("streaming", "BOOL"),
                "max_tokens": ("sampling_param_max_tokens", "INT32"),
                "temperature": ("sampling_param_temperature", "FP32"),
                "top_k": ("sampling_param_top_k", "INT32"),
                "top_p": ("sampling_param_top_p", "FP32"),
                "seed": ("sampling_param_seed", "UINT64"),
                "stop_words": ("sampling_param_stop", "BYTES"),
            },
            always={"sampling_param_exclude_input_from_output": True},
            text="text_output",
            cumulative=True,
        ),
    }
)
