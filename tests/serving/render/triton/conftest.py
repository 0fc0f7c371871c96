"""A real tritonserver over stand-ins for what needs a GPU, and a gRPC client that reads whole streams."""

from __future__ import annotations

import contextlib
import json
import queue
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from tritonclient.utils import np_to_triton_dtype

from serving.deploy.server import RunningServer, running_server

HERE = Path(__file__).parent
STANDIN_BACKEND = HERE / "standin_tensorrtllm" / "model.py"
STANDIN_LIBRARY = HERE / "standin_llm" / "tensorrt_llm"
KINDS = {bool: np.bool_, int: np.int32, float: np.float32, str: np.object_, bytes: np.object_}


class Stream:
    """One gRPC stream, read result by result."""

    def __init__(self, served: Served) -> None:
        self._served, self._client = served, served.client()
        self._results: queue.Queue[Any] = queue.Queue()
        self._client.start_stream(callback=lambda result, error: self._results.put(error or result))

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: Any) -> None:
        self._client.stop_stream(cancel_requests=True)
        self._client.close()

    def send(self, model: str, request_id: str = "", **arrays: Any) -> None:
        inputs = self._served.inputs(**arrays)
        self._client.async_stream_infer(model, inputs, request_id=request_id, enable_empty_final_response=True)

    def cancel(self) -> None:
        self._client.stop_stream(cancel_requests=True)

    def next(self) -> Any:
        result = self._results.get(timeout=20)
        if isinstance(result, Exception):
            raise result
        return result

    def rest(self) -> Iterator[Any]:
        """Results until the final one, those without any output left out."""
        while True:
            result = self.next()
            response = result.get_response()
            if response.outputs:
                yield result
            if response.parameters["triton_final_response"].bool_param:
                return


@dataclass(frozen=True)
class Served:
    """A loaded server over one artifact."""

    root: Path
    server: RunningServer
    log: Path  # what the stand-in engine was asked, one JSON object a line
    shape: tuple[int, ...]  # of a single value: (1, 1) where the models have a batch dimension

    def client(self) -> grpcclient.InferenceServerClient:
        return grpcclient.InferenceServerClient(self.server.grpc_address)

    def inputs(self, **arrays: Any) -> list[grpcclient.InferInput]:
        """Tensors from arrays as they are, or from single values."""
        made = []
        for name, value in arrays.items():
            array = value if isinstance(value, np.ndarray) else np.full(self.shape, value, KINDS[type(value)])
            tensor = grpcclient.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
            tensor.set_data_from_numpy(array)
            made.append(tensor)
        return made

    def infer(self, model: str, **arrays: Any) -> Any:
        with self.client() as client:
            return client.infer(model, self.inputs(**arrays))

    def open(self) -> Stream:
        return Stream(self)

    def stream(self, model: str, **arrays: Any) -> list[Any]:
        """Every response with an output; raises the error that ends the request."""
        with self.open() as opened:
            opened.send(model, **arrays)
            return list(opened.rest())

    def asked(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@pytest.fixture(scope="session")
def serve(triton_installed: None, make_plan: Any, write_artifact: Any) -> Callable[..., Any]:
    """`with serve(folder, **spec keys) as served`: a real server that ends at once when a model does not load."""

    @contextlib.contextmanager
    def start(folder: Path, **changes: Any) -> Iterator[Served]:
        log = folder / "asked.jsonl"
        log.touch()
        plan = make_plan(**changes)
        root = write_artifact(plan, folder / "artifact")
        if plan.runtime == "pytorch":
            # Stubs ignore PYTHONPATH; beside a model's own file a module is found.
            shutil.copytree(STANDIN_LIBRARY, root / "model_repository" / "tensorrt_llm" / "1" / STANDIN_LIBRARY.name)
        with running_server(
            root,
            cpu_backend=[STANDIN_BACKEND],
            extra=("--exit-on-error=true",),
            environment={"STANDIN_LOG": str(log)},
        ) as server:
            yield Served(root=root, server=server, log=log, shape=(1,) if plan.runtime == "pytorch" else (1, 1))

    return start


@pytest.fixture(scope="session")
def streaming(serve: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The layout of today, decoupled."""
    with serve(tmp_path_factory.mktemp("streaming")) as served:
        yield served
