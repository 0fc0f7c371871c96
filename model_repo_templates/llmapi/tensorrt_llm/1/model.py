"""tensorrt_llm.LLM as a Triton model: one event loop, every request a task on it, the library does the batching.

A streamed `text_output` is cumulative, as the library gives it and as clients of this layout expect. A client's
cancellation and a `stop` request with the same request id both abort the generation.
"""

import asyncio
import json
import os
import threading
from pathlib import Path

import helpers
import triton_python_backend_utils as pb_utils
import yaml

PATH_ARGUMENTS = ("model", "tokenizer")


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(auto_complete_model_config):
        settings = _read_yaml(pb_utils.get_model_dir())["triton_config"]
        auto_complete_model_config.set_model_transaction_policy({"decoupled": bool(settings["decoupled"])})
        auto_complete_model_config.set_max_batch_size(int(settings["max_batch_size"]))
        return auto_complete_model_config

    def initialize(self, args):
        arguments = _read_yaml(Path(args["model_repository"]) / args["model_version"])
        settings = arguments.pop("triton_config")
        config = json.loads(args["model_config"])
        self._decoupled = pb_utils.using_decoupled_model_transaction_policy(config)
        self._period_s = settings.get("cancellation_check_period_ms", 100) / 1000
        self._running = {}
        root = Path(args["model_repository"]).absolute().parent.parent
        for name in PATH_ARGUMENTS:
            if name in arguments and (root / arguments[name]).exists():
                arguments[name] = str(root / arguments[name])
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._llm = _make_llm(arguments)

    def execute(self, requests):
        if self._decoupled:
            for request in requests:
                asyncio.run_coroutine_threadsafe(self._serve_decoupled(request), self._loop)
            return None
        answers = [asyncio.run_coroutine_threadsafe(self._serve_once(request), self._loop) for request in requests]
        return [answer.result() for answer in answers]

    def finalize(self):
        self._llm.shutdown()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _serve_decoupled(self, request):
        sender = request.get_response_sender()
        try:
            async for response in self._responses(request):
                sender.send(response)
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        except Exception as error:  # whatever goes wrong must reach the client, or it waits for ever
            sender.send(_error_response(error), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    async def _serve_once(self, request):
        try:
            if helpers.scalar(request, "streaming", False):
                raise helpers.RequestError("streaming needs a deployment with decoupled_mode true")
            return [response async for response in self._responses(request)][-1]
        except Exception as error:  # as above
            return _error_response(error)

    async def _responses(self, request):
        """All states of a streamed request, the last one of another."""
        if helpers.scalar(request, "stop", False):
            self._stop(request.request_id())
            raise CancelledError("stopped by request id")
        streaming = bool(helpers.scalar(request, "streaming", False))
        prompt, wanted = helpers.prompt(request), helpers.wanted_outputs(request)
        excluded = helpers.scalar(request, "sampling_param_exclude_input_from_output", True)
        generation = self._start(request, prompt, streaming)
        task = _Running(generation, request)
        self._running.setdefault(request.request_id(), set()).add(task)
        watch = asyncio.ensure_future(self._watch(task))
        try:
            async for state in generation:
                if task.stopped:
                    break
                if streaming or state.finished:
                    yield helpers.response(state, wanted, "" if excluded else prompt)
            if task.stopped:
                raise CancelledError("cancelled by the client")
        finally:
            watch.cancel()
            self._forget(request.request_id(), task)

    def _start(self, request, prompt, streaming):
        from tensorrt_llm import SamplingParams

        arguments = helpers.sampling_arguments(request)
        lora = helpers.lora_arguments(request)
        if lora is None:
            return self._llm.generate_async(prompt, SamplingParams(**arguments), streaming=streaming)
        from tensorrt_llm.executor.request import LoRARequest

        return self._llm.generate_async(
            prompt, SamplingParams(**arguments), lora_request=LoRARequest(**lora), streaming=streaming
        )

    def _stop(self, request_id):
        if not request_id:
            raise helpers.RequestError("stop needs the id of the request to end")
        for task in self._running.get(request_id, ()):
            task.stop()

    async def _watch(self, task):
        while not task.request.is_cancelled():
            await asyncio.sleep(self._period_s)
        task.stop()

    def _forget(self, request_id, task):
        tasks = self._running[request_id]
        tasks.discard(task)
        if not tasks:
            del self._running[request_id]


class CancelledError(Exception):
    """A generation that somebody ended."""


class _Running:
    def __init__(self, generation, request):
        self._generation = generation
        self.request = request
        self.stopped = False

    def stop(self):
        if not self.stopped:
            self.stopped = True
            self._generation.abort()


def _make_llm(arguments):
    """Imported this late because the import alone takes hold of the GPU."""
    from tensorrt_llm import LLM

    return LLM(**arguments)


def _read_yaml(folder):
    return yaml.safe_load((Path(folder) / os.environ.get("LLM_CONFIG_PATH", "model.yaml")).read_text(encoding="utf-8"))


def _error_response(error):
    codes = {CancelledError: pb_utils.TritonError.CANCELLED, helpers.RequestError: pb_utils.TritonError.INVALID_ARG}
    text = str(error) if type(error) in codes else f"{type(error).__name__}: {error}"
    code = codes.get(type(error), pb_utils.TritonError.INTERNAL)
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(text, code))
