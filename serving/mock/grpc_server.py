"""Triton's gRPC service, with tritonclient's own messages."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from serving.client.layouts import LAYOUTS, Value
from serving.client.tensors import pack, unpack
from serving.mock.behaviour import Chunk
from serving.mock.dialects import DIALECTS
from serving.mock.facts import MODELS, SERVER_VERSION, Facts
from serving.mock.grpc_wire import Call
from serving.mock.performance import Asked, PlannedFault, Stage

_SERVICE = "/inference.GRPCInferenceService/"
_CONFIG_TYPES = {"BYTES": "TYPE_STRING"}
_INVALID_ARGUMENT, _UNIMPLEMENTED, _UNAVAILABLE = 3, 12, 14  # grpc.StatusCode


class GrpcService:
    """Serves the calls of all connections."""

    def __init__(self, stage: Stage, facts: Facts) -> None:
        from tritonclient.grpc import service_pb2

        self._pb: Any = service_pb2
        self._stage, self._facts = stage, facts
        pb = self._pb
        self._plain: dict[str, Callable[[Any], Any]] = {
            "ServerLive": lambda _: pb.ServerLiveResponse(live=True),
            "ServerReady": lambda _: pb.ServerReadyResponse(ready=True),
            "ModelReady": lambda _: pb.ModelReadyResponse(ready=True),
            "ServerMetadata": lambda _: pb.ServerMetadataResponse(name="mock", version=SERVER_VERSION),
            "ModelMetadata": self._metadata,
            "ModelConfig": self._config,
            "ModelStatistics": self._statistics,
            "RepositoryIndex": self._index,
        }

    async def serve(self, call: Call) -> None:
        """One call, to its status."""
        name = call.path.removeprefix(_SERVICE)
        if name == "ModelStreamInfer":
            await self._stream_infer(call)
            return
        if name not in (*self._plain, "ModelInfer"):
            call.finish(_UNIMPLEMENTED, f"no method {call.path}")
            return
        content, at_ns = await anext(call.messages())
        asked = getattr(self._pb, f"{name}Request").FromString(content)
        if name == "ModelInfer":
            await self._infer(call, asked, at_ns)
        else:
            call.send(self._plain[name](asked).SerializeToString())
            call.finish()

    def _config(self, asked: Any) -> Any:
        answer = self._pb.ModelConfigResponse()
        answer.config.name = asked.name
        answer.config.max_batch_size = int(LAYOUTS[self._facts.layout].batched)
        answer.config.model_transaction_policy.decoupled = True
        for name, dtype, optional in self._inputs():
            row = answer.config.input.add(name=name, dims=[1], optional=optional)
            row.data_type = _CONFIG_TYPES.get(dtype, f"TYPE_{dtype}")
        answer.config.output.add(name="text_output", data_type="TYPE_STRING", dims=[1])
        return answer

    def _metadata(self, asked: Any) -> Any:
        """With the inputs of a completion, which load generators look for before they send anything."""
        shape = [-1, 1] if LAYOUTS[self._facts.layout].batched else [1]
        answer = self._pb.ModelMetadataResponse(name=asked.name, versions=["1"], platform="mock")
        for name, dtype, _ in self._inputs():
            answer.inputs.add(name=name, datatype=dtype, shape=shape)
        answer.outputs.add(name="text_output", datatype="BYTES", shape=shape)
        return answer

    def _inputs(self) -> list[tuple[str, str, bool]]:
        """(name, data type, whether it may be left out)."""
        layout = LAYOUTS[self._facts.layout]
        rows = [(name, dtype, field not in ("prompt", "max_tokens")) for field, (name, dtype) in layout.names.items()]
        return rows + [(name, "BOOL", True) for name in layout.always]

    def _statistics(self, asked: Any) -> Any:
        from google.protobuf import json_format

        answer = json_format.ParseDict(self._facts.statistics(), self._pb.ModelStatisticsResponse())
        for row in [row for row in answer.model_stats if asked.name and row.name != asked.name]:
            answer.model_stats.remove(row)
        return answer

    def _index(self, _: Any) -> Any:
        return self._pb.RepositoryIndexResponse(
            models=[{"name": name, "version": "1", "state": "READY"} for name in MODELS[self._facts.layout]]
        )

    async def _infer(self, call: Call, message: Any, at_ns: int) -> None:
        asked = self._read(message)
        if asked is None:
            call.send(self._final(message).infer_response.SerializeToString())
            call.finish()
            return
        try:
            async with contextlib.aclosing(self._stage.perform("grpc", replace(asked, stream=False), at_ns)) as cues:
                cue = await anext(cues)
                content = self._response(message, cue.chunk, asked, "").SerializeToString()
                cue.sent()
                call.send(content)
                call.finish()
        except PlannedFault as fault:
            call.finish(_INVALID_ARGUMENT, str(fault))

    async def _stream_infer(self, call: Call) -> None:
        """One generation per message, one after the other: a client that wants more at once opens more streams."""
        async for content, at_ns in call.messages():
            message = self._pb.ModelInferRequest.FromString(content)
            try:
                asked = self._read(message)
                if asked is None:
                    self._say(call, self._final(message))
                else:
                    await self._generate(call, message, asked, at_ns)
            except (KeyError, ValueError) as error:
                self._say(call, self._pb.ModelStreamInferResponse(error_message=f"this cannot be read: {error!r}"))
            except PlannedFault as fault:
                if fault.kind == "cut":
                    call.finish(_UNAVAILABLE, "the connection was cut")
                    return
                wrong = self._pb.ModelStreamInferResponse(error_message=str(fault))
                self._say(call, self._garbage(message) if fault.kind == "garbage" else wrong)
        call.finish()

    async def _generate(self, call: Call, message: Any, asked: Asked, at_ns: int) -> None:
        so_far = ""
        async with contextlib.aclosing(self._stage.perform("grpc", asked, at_ns)) as cues:
            async for cue in cues:
                so_far += cue.chunk.text if self._facts.layout == "llmapi" else ""
                response = self._response(message, cue.chunk, asked, so_far)
                content = self._pb.ModelStreamInferResponse(infer_response=response).SerializeToString()
                cue.sent()
                call.send(content)
        self._say(call, self._final(message))

    def _say(self, call: Call, answer: Any) -> None:
        call.send(answer.SerializeToString())

    def _read(self, message: Any) -> Asked | None:
        """What is asked; None for a stop request, which is carried out here."""
        body: dict[str, Any] = {"id": message.id}
        for tensor, content in zip(message.inputs, message.raw_input_contents, strict=True):
            values = unpack(tensor.datatype, content)
            body[tensor.name] = values[0] if len(values) == 1 else values
        if body.get("stop") is True:
            self._stage.stop(message.id)
            return None
        return DIALECTS[self._facts.layout].asked(body)

    def _response(self, message: Any, chunk: Chunk, asked: Asked, so_far: str) -> Any:
        layout = LAYOUTS[self._facts.layout]
        rows: list[tuple[str | None, str, list[Value]]] = [
            (layout.text, "BYTES", [so_far if layout.cumulative and asked.stream else chunk.text]),
            (layout.tokens, "INT32", [chunk.tokens]),
            (layout.input_tokens, "INT32", [asked.input_tokens]),
        ]
        response = self._pb.ModelInferResponse(model_name=message.model_name, model_version="1", id=message.id)
        for name, dtype, values in rows:
            if name is not None and (asked.usage or name == layout.text):
                response.outputs.add(name=name, datatype=dtype, shape=[1] * (1 + layout.batched))
                response.raw_output_contents.append(pack(name, dtype, values))
        response.parameters["triton_final_response"].bool_param = False
        return response

    def _final(self, message: Any) -> Any:
        answer = self._pb.ModelStreamInferResponse()
        answer.infer_response.id = message.id
        answer.infer_response.parameters["triton_final_response"].bool_param = True
        return answer

    def _garbage(self, message: Any) -> Any:
        answer = self._pb.ModelStreamInferResponse()
        answer.infer_response.id = message.id
        answer.infer_response.outputs.add(name="text_output", datatype="BYTES", shape=[1, 1])
        answer.infer_response.raw_output_contents.append(b"\x7f\0\0\0cut")
        return answer
