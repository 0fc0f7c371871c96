"""STAND-IN for the engine, for tests only: no model, it says the prompt's own ids again and again.

It speaks the contract of `tensorrt_llm` as the real backend does: batches, streamed deltas, `stop` by request id, stop
words, end id, and the outputs that a request asks for. `seed` is the pause between two tokens in milliseconds.
"""

import json
import os
import threading

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        self._decoupled = pb_utils.using_decoupled_model_transaction_policy(config)
        self._inputs = [item["name"] for item in config["input"]]
        self._stops, self._lock = {}, threading.Lock()

    def execute(self, requests):
        for request in requests:
            threading.Thread(target=self._serve, args=(request,), daemon=True).start()

    def _serve(self, request):
        sender = request.get_response_sender()
        final = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
        try:
            if not self._decoupled:
                sender.send(list(self._responses(request))[-1], flags=final)
                return
            for response in self._responses(request):
                sender.send(response)
            sender.send(flags=final)
        except ValueError as error:
            sender.send(_error_response(error), flags=final)

    def _responses(self, request):
        tensors = {name: pb_utils.get_input_tensor_by_name(request, name) for name in self._inputs}
        given = {name: tensor.as_numpy() for name, tensor in tensors.items() if tensor is not None}
        self._note({"id": request.request_id(), "inputs": {name: _plain(value) for name, value in given.items()}})
        if given.get("stop", np.zeros(1)).any():
            with self._lock:
                self._stops.setdefault(request.request_id(), threading.Event()).set()
            return
        with self._lock:
            stop = self._stops[request.request_id()] = threading.Event()
        rows, streaming = given["input_ids"], bool(given.get("streaming", np.zeros(1)).any())
        for index in range(len(rows)):
            done = []
            for token in self._tokens(given, index, stop):
                done.append(token)
                if streaming:
                    yield self._response(given, index, [token], len(rows))
            if not streaming:
                yield self._response(given, index, done, len(rows))
        self._note({"id": request.request_id(), "ended": "stopped" if stop.is_set() else "finished"})

    def _tokens(self, given, index, stop):
        length = int(given["input_lengths"].reshape(-1)[index])
        prompt = given["input_ids"][index][:length].tolist()
        if prompt[-1] == given["pad_id"].reshape(-1)[index]:
            raise ValueError("the stand-in was asked to fail by a prompt that ends with the pad id")
        words, end = _words(given.get("stop_words_list"), index), int(given["end_id"].reshape(-1)[index])
        done = []
        for position in range(int(given["request_output_len"].reshape(-1)[index])):
            token = prompt[position % length]
            if token == end or stop.wait(int(given.get("seed", np.zeros(1)).reshape(-1)[0]) / 1000):
                return
            done.append(token)
            yield token
            if any(done[-len(word) :] == word for word in words):
                return

    def _response(self, given, index, ids, batch):
        length = int(given["input_lengths"].reshape(-1)[index])
        wanted = {
            "num_output_tokens": ("return_num_output_tokens", [[len(ids)]], np.int32),
            "num_input_tokens": ("return_num_input_tokens", [[length]], np.int32),
            "cum_log_probs": ("return_log_probs", [[-1.5]], np.float32),
        }
        tensors = [
            pb_utils.Tensor("output_ids", np.array([[ids]], np.int32).reshape(1, 1, len(ids))),
            pb_utils.Tensor("sequence_length", np.array([[len(ids)]], np.int32)),
            *(
                pb_utils.Tensor(name, np.array(value, kind))
                for name, (flag, value, kind) in wanted.items()
                if given.get(flag, np.zeros(1)).any()
            ),
        ]
        if batch > 1:
            tensors.append(pb_utils.Tensor("batch_index", np.array([[index]], np.int32)))
        return pb_utils.InferenceResponse(tensors)

    def _note(self, what):
        path = os.environ.get("STANDIN_LOG")
        if path:
            with self._lock, open(path, "a", encoding="utf-8") as file:  # noqa: PTH123
                file.write(json.dumps(what) + "\n")


def _error_response(error):
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))


def _words(rows, index):
    if rows is None:
        return []
    ids, offsets = rows[index].tolist()
    ends = [offset for offset in offsets if offset >= 0]
    return [ids[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def _plain(value):
    return [item.decode("utf-8", "replace") for item in value.reshape(-1)] if value.dtype == object else value.tolist()
