"""KServe tensors to and from bytes, for the few data types that a completion uses."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from serving.client.layouts import Layout, Value
from serving.client.request import Request
from trtllm_kit.errors import UsageError

_CODES = {"INT32": "i", "INT64": "q", "UINT64": "Q", "FP32": "f", "BOOL": "?"}
_PREFIX = struct.Struct("<I")


def pack(name: str, dtype: str, values: Sequence[Value]) -> bytes:
    """Little-endian content of a tensor; UsageError names the field when a value does not fit its type."""
    try:
        if dtype == "BYTES":
            texts = [str(value).encode("utf-8") for value in values]
            return b"".join(_PREFIX.pack(len(text)) + text for text in texts)
        return struct.pack(f"<{len(values)}{_CODES[dtype]}", *values)
    except UnicodeEncodeError:
        raise UsageError(f"{name} is not valid Unicode text", expected="text that can be sent as UTF-8") from None
    except (struct.error, OverflowError):
        raise UsageError(f"{name}: {list(values)} does not fit {dtype}", expected=f"values of type {dtype}") from None


def unpack(dtype: str, content: bytes) -> list[Value]:
    """Flat values of a tensor; ValueError when the bytes are not such a tensor."""
    if dtype != "BYTES":
        code = _CODES.get(dtype)
        if code is None:
            return []
        try:
            return [value for (value,) in struct.iter_unpack(f"<{code}", content)]
        except struct.error as error:
            raise ValueError(str(error)) from None
    return _unpack_texts(content)


def infer_request(layout: Layout, model: str, request: Request) -> Any:
    """The ModelInferRequest of one completion, with an empty final response asked for."""
    return infer_message(model, request.request_id, layout.tensors(request), batched=layout.batched)


def stop_request(layout: Layout, request_id: str) -> Any:
    """The request that ends `request_id` inside the engine. The engine ignores its other inputs, Triton wants them."""
    rows: list[tuple[str, str, list[Value]]] = [
        ("input_ids", "INT32", [0]),
        ("input_lengths", "INT32", [1]),
        ("request_output_len", "INT32", [1]),
        ("streaming", "BOOL", [True]),
        ("stop", "BOOL", [True]),
    ]
    return infer_message(layout.stop_model or layout.model, request_id, rows, batched=True)


def infer_message(model: str, request_id: str, rows: list[tuple[str, str, list[Value]]], *, batched: bool) -> Any:
    """A ModelInferRequest of raw tensors."""
    from tritonclient.grpc import service_pb2

    message = service_pb2.ModelInferRequest(model_name=model, id=request_id)
    message.parameters["triton_enable_empty_final_response"].bool_param = True
    for name, dtype, values in rows:
        shape = [1, len(values)] if batched else [len(values)]
        message.inputs.add(name=name, datatype=dtype, shape=shape)
        message.raw_input_contents.append(pack(name, dtype, values))
    return message


def outputs_of(response: Any) -> dict[str, list[Value]]:
    """{name: flat values} of a ModelInferResponse."""
    pairs = zip(response.outputs, response.raw_output_contents, strict=False)
    return {output.name: unpack(output.datatype, content) for output, content in pairs}


def _unpack_texts(content: bytes) -> list[Value]:
    texts: list[Value] = []
    at = 0
    while at < len(content):
        if at + _PREFIX.size > len(content):
            raise ValueError("a string tensor ends inside a length")
        (length,) = _PREFIX.unpack_from(content, at)
        at += _PREFIX.size
        if at + length > len(content):
            raise ValueError("a string tensor ends inside a string")
        texts.append(content[at : at + length].decode("utf-8", errors="replace"))
        at += length
    return texts
