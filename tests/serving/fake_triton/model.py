"""Token i of prompt p is the character p[i % len(p)]; words in the prompt ask for faults."""

import json
import threading
import time

import numpy as np
import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
STEP_S = 0.002


def value(request, name, default=None):
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return default if tensor is None else tensor.as_numpy().reshape(-1)[0]


def error(text):
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(text))


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        self.name = args["model_name"]
        self.mode = config["parameters"]["mode"]["string_value"]
        self.live = {}
        if self.mode == "broken":
            raise RuntimeError("mpiSize == tp * pp was expected")

    def execute(self, requests):
        if self.name in ("preprocessing", "postprocessing"):
            convert = self.tokenize if self.name == "preprocessing" else self.detokenize
            return [convert(request) for request in requests]
        for request in requests:
            if bool(value(request, "stop", False)):
                self.live.pop(request.request_id(), threading.Event()).set()
                request.get_response_sender().send(flags=FINAL)
                continue
            stopped = self.live[request.request_id()] = threading.Event()
            threading.Thread(target=self.generate, args=(request, stopped), daemon=True).start()
        return None

    def tokenize(self, request):
        text = value(request, "QUERY").decode()
        ids = [ord(character) for character in text]
        if "drift" in text:
            ids = [1, *ids]
        count = np.array([[len(ids)]], np.int32)
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor("INPUT_ID", np.array([ids], np.int32)),
                pb_utils.Tensor("REQUEST_INPUT_LEN", count),
                pb_utils.Tensor("OUTPUT_LEN", np.array([[value(request, "REQUEST_OUTPUT_LEN")]], np.int32)),
            ]
        )

    def detokenize(self, request):
        tokens = pb_utils.get_input_tensor_by_name(request, "TOKENS_BATCH").as_numpy().reshape(-1)
        text = "".join(map(chr, tokens)).encode()
        return pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT", np.array([[text]], np.object_))])

    def generate(self, request, stopped):
        try:
            self.send_tokens(request, stopped)
        finally:
            if self.live.get(request.request_id()) is stopped:
                del self.live[request.request_id()]

    def send_tokens(self, request, stopped):
        sender = request.get_response_sender()
        prompt, limit, stream = self.question(request)
        if "never" in prompt or self.mode == "mute":
            stopped.wait(60)
            return sender.send(error("stopped"), flags=FINAL)
        if prompt == "census":
            return sender.send(self.answer(prompt, [len(self.live) - 1]), flags=FINAL)
        if "refuse" in prompt:
            return sender.send(error("prompt length (9) exceeds the maximum (8)"), flags=FINAL)
        if "overflow" in prompt:
            return sender.send(error("Exceeds maximum queue size"), flags=FINAL)
        length = 3 if "short" in prompt else limit + 2 if "toolong" in prompt else limit
        tokens = [ord(prompt[at % len(prompt)]) for at in range(length)]
        if not stream:
            return sender.send(self.answer(prompt, tokens), flags=FINAL)
        for at, token in enumerate(tokens):
            time.sleep(0.05 if "slow" in prompt else STEP_S)
            if "breaks" in prompt and at == 3:
                return sender.send(error("engine: out of KV blocks"), flags=FINAL)
            if stopped.is_set():
                return sender.send(error("cancelled"), flags=FINAL)
            last = at == len(tokens) - 1
            sender.send(self.answer(prompt, [token]), flags=FINAL if last and "emptyfinal" not in prompt else 0)
        if "emptyfinal" in prompt:
            sender.send(flags=FINAL)
        return None

    def question(self, request):
        ids = pb_utils.get_input_tensor_by_name(request, "input_ids").as_numpy().reshape(-1)
        return (
            "".join(map(chr, ids)),
            int(value(request, "request_output_len")),
            bool(value(request, "streaming", False)),
        )

    def answer(self, prompt, tokens):
        shown = [token ^ 1 for token in tokens] if "twofaced" in prompt and len(tokens) > 1 else tokens
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor("output_ids", np.array([[shown]], np.int32)),
                pb_utils.Tensor("sequence_length", np.array([[len(tokens)]], np.int32)),
                pb_utils.Tensor("num_output_tokens", np.array([[len(tokens)]], np.int32)),
                pb_utils.Tensor("num_input_tokens", np.array([[len(prompt)]], np.int32)),
            ]
        )
