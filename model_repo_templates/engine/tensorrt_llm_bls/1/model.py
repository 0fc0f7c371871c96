"""The whole way of a request in one model: preprocessing, tensorrt_llm, and text deltas that re-join exactly.

With accumulate_tokens each streamed response carries only the text that its tokens complete: bytes of a character that
is not whole yet are held back, and spaces that a tokenizer drops at the start of a text survive. Without it each
response is decoded by itself. A thread of its own serves each request of a decoupled deployment, so that one instance
serves many at a time; one that is not decoupled serves them one after the other, as Triton hands them over.

num_input_tokens, num_output_tokens and the other outputs are passed on as tensorrt_llm gives them: for a streamed
response num_output_tokens counts that response's tokens. The request sent to tensorrt_llm bears the client's own
request id, so that a `stop` sent there with that id ends it; a request without an id gets a fresh one.
"""

import json
import threading
import uuid
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils
from decoding import SequenceTexts
from watch import CancellationWatch

TO_PREPROCESSING = {
    "text_input": "QUERY",
    "decoder_text_input": "DECODER_QUERY",
    "image_bytes_input": "IMAGE_BYTES",
    "image_url_input": "IMAGE_URL",
    "video_bytes_input": "VIDEO_BYTES",
    "max_tokens": "REQUEST_OUTPUT_LEN",
    "bad_words": "BAD_WORDS_DICT",
    "stop_words": "STOP_WORDS_DICT",
    "embedding_bias_words": "EMBEDDING_BIAS_WORDS",
    "embedding_bias_weights": "EMBEDDING_BIAS_WEIGHTS",
    "end_id": "END_ID",
    "pad_id": "PAD_ID",
    "prompt_table_extra_id": "PROMPT_TABLE_EXTRA_ID",
}
FROM_PREPROCESSING = {
    "INPUT_ID": "input_ids",
    "REQUEST_INPUT_LEN": "input_lengths",
    "REQUEST_OUTPUT_LEN": "request_output_len",
    "BAD_WORDS_IDS": "bad_words_list",
    "STOP_WORDS_IDS": "stop_words_list",
    "EMBEDDING_BIAS": "embedding_bias",
    "OUT_END_ID": "end_id",
    "OUT_PAD_ID": "pad_id",
}
FOR_ONE_INPUT = {
    "decoder_text_input": {
        "DECODER_INPUT_ID": "decoder_input_ids",
        "REQUEST_DECODER_INPUT_LEN": "decoder_input_lengths",
    },
    "prompt_table_extra_id": {"OUT_PROMPT_TABLE_EXTRA_IDS": "prompt_table_extra_ids"},
}
RENAMED = {"top_k": "runtime_top_k", "top_p": "runtime_top_p", "length_penalty": "len_penalty", "stream": "streaming"}
UNSUPPORTED = {
    "image_input": "multimodal encoders",
    "num_draft_tokens": "draft-target speculation",
    "use_draft_logits": "draft-target speculation",
}
OWN_OUTPUT = "text_output"


class RequestError(Exception):
    """A request that ends in an error for its client, with Triton's code for it."""

    def __init__(self, message, code):
        super().__init__(message)
        self.code = code


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        root = Path(args["model_repository"]).absolute().parent.parent
        self._tokenizer = _load_tokenizer(root / parameters["tokenizer_dir"])
        self._skip_special_tokens = _is_true(parameters["skip_special_tokens"])
        self._accumulate = _is_true(parameters["accumulate_tokens"])
        self._llm = parameters.get("tensorrt_llm_model_name") or "tensorrt_llm"
        self._decoupled = pb_utils.using_decoupled_model_transaction_policy(config)
        self._inputs = [item["name"] for item in config["input"]]
        passed_on = [item["name"] for item in config["output"] if item["name"] != OWN_OUTPUT]
        self._llm_outputs = ["output_ids", "sequence_length", *passed_on]
        self._watch = CancellationWatch(self._stop)

    def execute(self, requests):
        if not self._decoupled:
            return [self._answer(request) for request in requests]
        for request in requests:
            threading.Thread(target=self._answer_decoupled, args=(request,), daemon=True).start()
        return None

    def finalize(self):
        self._watch.close()

    def _answer(self, request):
        try:
            given = self._given(request)
            if len(given["text_input"]) != 1:
                raise _unsupported("several prompts in a request need decoupled_mode true")
            (response,) = self._responses(request, given)
            return response
        except Exception as error:  # whatever goes wrong must reach the client, or it waits for ever
            return _error_response(error)

    def _answer_decoupled(self, request):
        sender = request.get_response_sender()
        try:
            for response in self._responses(request, self._given(request)):
                sender.send(response)
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        except Exception as error:  # as above
            sender.send(_error_response(error), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _given(self, request):
        """The inputs that the client sent, each with its batch dimension and at least one more."""
        given = {}
        for name in self._inputs:
            tensor = pb_utils.get_input_tensor_by_name(request, name)
            if tensor is not None:
                value = tensor.as_numpy()
                given[name] = value.reshape(-1, 1) if value.ndim < 2 else value
        for name, feature in UNSUPPORTED.items():
            if name in given and given[name].any():
                raise _unsupported(f"{name}: this model has no {feature}")
        if _is_set(given, "stream") and not self._decoupled:
            raise _unsupported("streaming needs a deployment with decoupled_mode true")
        return given

    def _responses(self, request, given):
        """Responses for the client, in order; raises RequestError."""
        inner_id = request.request_id() or uuid.uuid4().hex
        own = {RENAMED.get(name, name): value for name, value in given.items() if _goes_to_llm(name)}
        inner = self._llm_request({**self._preprocess(given, inner_id), **own}, inner_id, self._llm_outputs)
        texts = SequenceTexts(self._decode, keeps_state=self._accumulate and _is_set(given, "stream"))
        with self._watch.watching(request, inner_id) as watched:
            for answer in inner.exec(decoupled=True) if self._decoupled else [inner.exec()]:
                if watched.cancelled:
                    continue
                _raise_error(answer)
                outputs = {tensor.name(): tensor for tensor in answer.output_tensors()}
                if "output_ids" in outputs:
                    yield _response(outputs, texts)
        if watched.cancelled:
            raise RequestError("cancelled by the client", pb_utils.TritonError.CANCELLED)
        for held_back in texts.flush():
            yield pb_utils.InferenceResponse([_text_tensor(held_back)])

    def _preprocess(self, given, inner_id):
        """Arrays for tensorrt_llm by its input names; an empty one says what leaving it out says."""
        renamed = dict(FROM_PREPROCESSING)
        for name, more in FOR_ONE_INPUT.items():
            renamed |= more if name in given else {}
        answer = pb_utils.InferenceRequest(
            model_name="preprocessing",
            inputs=[pb_utils.Tensor(outer, given[name]) for name, outer in TO_PREPROCESSING.items() if name in given],
            request_id=inner_id,
            requested_output_names=list(renamed),
        ).exec()
        _raise_error(answer)
        arrays = {renamed[tensor.name()]: tensor.as_numpy() for tensor in answer.output_tensors()}
        return {name: value for name, value in arrays.items() if value.size}

    def _llm_request(self, arrays, inner_id, outputs):
        return pb_utils.InferenceRequest(
            model_name=self._llm,
            inputs=[pb_utils.Tensor(name, value) for name, value in arrays.items()],
            request_id=inner_id,
            requested_output_names=outputs,
        )

    def _decode(self, ids):
        return self._tokenizer.decode(ids, skip_special_tokens=self._skip_special_tokens)

    def _stop(self, inner_id):
        """Ask tensorrt_llm to give a request up: its own `stop` input, under the same request id."""
        one = np.ones((1, 1), np.int32)
        arrays = {"input_ids": one, "input_lengths": one, "request_output_len": one, "stop": one.astype(np.bool_)}
        request = self._llm_request(arrays, inner_id, ["output_ids", "sequence_length"])
        for _ in request.exec(decoupled=True) if self._decoupled else [request.exec()]:
            pass


def _goes_to_llm(name):
    return name not in TO_PREPROCESSING and name not in UNSUPPORTED


def _is_true(text):
    return text.lower() in ("true", "1")


def _is_set(given, name):
    return name in given and bool(given[name].any())


def _response(outputs, texts):
    ids, lengths = outputs.pop("output_ids").as_numpy(), outputs.pop("sequence_length").as_numpy()
    sequence = tuple(_index(outputs, name) for name in ("batch_index", "sequence_index"))
    beams = [beam[:length].tolist() for beam, length in zip(ids[0], lengths[0], strict=True)]
    return pb_utils.InferenceResponse([_text_tensor(texts.take(sequence, beams)), *outputs.values()])


def _index(outputs, name):
    return int(outputs[name].as_numpy().reshape(-1)[0]) if name in outputs else 0


def _text_tensor(texts):
    return pb_utils.Tensor(OWN_OUTPUT, np.array([[text.encode("utf-8") for text in texts]], dtype=np.object_))


def _raise_error(answer):
    if answer.has_error():
        raise RequestError(answer.error().message(), answer.error().code())


def _unsupported(message):
    return RequestError(message, pb_utils.TritonError.UNSUPPORTED)


def _error_response(error):
    known = isinstance(error, RequestError)
    text = str(error) if known else f"{type(error).__name__}: {error}"
    code = error.code if known else pb_utils.TritonError.INTERNAL
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(text, code))


def _load_tokenizer(folder):
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise pb_utils.TritonModelException(f"the server's Python lacks the package 'tokenizers': {error}") from None
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise pb_utils.TritonModelException(f"there is no tokenizer at {path}; check the parameter tokenizer_dir")
    return Tokenizer.from_file(str(path))
