"""Text to token ids: prompts, stop and bad words, embedding bias.

Runs in the server's Python; needs numpy and tokenizers.
"""

import json
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

_IMAGES = ("IMAGE_BYTES", "IMAGE_URL", "IMAGES", "VIDEO_BYTES")


class RequestError(ValueError):
    """The client sent something that no token ids can be made of."""


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        folder = _resolve(parameters["tokenizer_dir"], args["model_repository"])
        self._tokenizer = _load_tokenizer(folder)
        self._add_special_tokens = parameters.get("add_special_tokens", "true").lower() in ("true", "1")
        self._end_ids = _end_ids(folder, self._tokenizer)
        self._pad_id = _special_id(folder, self._tokenizer, "pad_token", self._end_ids[0] if self._end_ids else 0)
        engine = _resolve(parameters.get("gpt_model_path", ""), args["model_repository"])
        self._vocab_size = _vocab_size(engine, self._tokenizer)

    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        try:
            outputs = self._outputs(_Inputs(request))
        except RequestError as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG))
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, value) for name, value in outputs.items()])

    def _outputs(self, inputs):
        for name in _IMAGES:
            if inputs.get(name) is not None:
                raise RequestError(f"{name} was sent, but this deployment serves text only")
        prompts = inputs.rows("QUERY")
        lengths = _positive(inputs.get("REQUEST_OUTPUT_LEN"), len(prompts))
        ids = [self._prompt_ids(row[0]) for row in prompts]
        given_end = inputs.get("END_ID")
        end_id = _column(given_end, len(prompts), self._end_ids[0] if self._end_ids else -1)
        pad_id = _column(inputs.get("PAD_ID"), len(prompts), self._pad_id)
        decoder_ids = [self._prompt_ids(row[0]) for row in inputs.rows("DECODER_QUERY")] or pad_id.tolist()
        stops = [self._encode_words(row) for row in inputs.rows("STOP_WORDS_DICT")] or [[] for _ in prompts]
        if given_end is None:
            # TensorRT-LLM takes one end id; a model that names several ends at any of them.
            stops = [row + [[end] for end in self._end_ids[1:]] for row in stops]
        bad = [self._encode_words(row) for row in inputs.rows("BAD_WORDS_DICT")] or [[] for _ in prompts]
        outputs = {
            "INPUT_ID": _padded(ids, int(pad_id[0, 0])),
            "REQUEST_INPUT_LEN": _lengths(ids),
            "DECODER_INPUT_ID": _padded(decoder_ids, int(pad_id[0, 0])),
            "REQUEST_DECODER_INPUT_LEN": _lengths(decoder_ids),
            "REQUEST_OUTPUT_LEN": lengths,
            "BAD_WORDS_IDS": _word_rows(bad),
            "STOP_WORDS_IDS": _word_rows(stops),
            "EMBEDDING_BIAS": self._bias(inputs, len(prompts)),
            "OUT_END_ID": end_id,
            "OUT_PAD_ID": pad_id,
        }
        extra = inputs.get("PROMPT_TABLE_EXTRA_ID")
        if extra is not None:
            outputs["OUT_PROMPT_TABLE_EXTRA_IDS"] = np.where(
                outputs["INPUT_ID"] >= self._vocab_size, extra.reshape(len(prompts), 1), 0
            ).astype(np.uint64)
        return outputs

    def _prompt_ids(self, raw):
        ids = self._tokenizer.encode(_text(raw, "the prompt"), add_special_tokens=self._add_special_tokens).ids
        if not ids:
            raise RequestError("the prompt is empty: it has no tokens")
        return ids

    def _encode_words(self, row):
        """Each word as it begins a line and as it follows a space: most tokenizers give these different ids."""
        texts = [_text(raw, "a stop or bad word") for raw in row]
        spelled = [form for text in texts if text for form in (text, f" {text}")]
        encoded = [tuple(self._tokenizer.encode(form, add_special_tokens=False).ids) for form in spelled]
        return [list(ids) for ids in dict.fromkeys(encoded) if ids]

    def _bias(self, inputs, batch):
        words, weights = inputs.rows("EMBEDDING_BIAS_WORDS"), inputs.rows("EMBEDDING_BIAS_WEIGHTS")
        if not len(words) and not len(weights):
            return np.empty((batch, 0), np.float32)
        if [len(row) for row in words] != [len(row) for row in weights]:
            raise RequestError("embedding_bias_words and embedding_bias_weights differ in length")
        bias = np.zeros((batch, self._vocab_size), np.float32)
        for index, (row, values) in enumerate(zip(words, weights, strict=True)):
            for raw, weight in zip(row, values, strict=True):
                text = _text(raw, "an embedding bias word")
                np.add.at(bias[index], self._tokenizer.encode(text, add_special_tokens=False).ids, weight)
        return bias


class _Inputs:
    """One request's tensors as numpy arrays, batch first; an absent optional is None."""

    def __init__(self, request):
        self._request = request

    def get(self, name):
        tensor = pb_utils.get_input_tensor_by_name(self._request, name)
        return None if tensor is None else tensor.as_numpy()

    def rows(self, name):
        value = self.get(name)
        return [] if value is None else value


def _text(raw, what):
    try:
        return raw.decode("utf-8") if isinstance(raw, bytes) else str(raw)
    except UnicodeDecodeError as error:
        raise RequestError(f"{what} is not UTF-8: {error.reason} at byte {error.start}") from None


def _positive(lengths, batch):
    lengths = lengths.reshape(batch, -1).astype(np.int32)
    if (lengths <= 0).any():
        raise RequestError(f"max_tokens must be at least 1, got {int(lengths.min())}")
    return lengths


def _column(given, batch, default):
    if given is None:
        return np.full((batch, 1), default, np.int32)
    return given.reshape(batch, 1).astype(np.int32)


def _lengths(rows):
    return np.array([[len(row)] for row in rows], np.int32)


def _padded(rows, pad_id):
    """Rows of ids to one array, the shorter ones filled up on the right."""
    out = np.full((len(rows), max(len(row) for row in rows)), pad_id, np.int32)
    for index, row in enumerate(rows):
        out[index, : len(row)] = row
    return out


def _word_rows(batch):
    """Words' ids to TensorRT-LLM's form, [batch, 2, n]: all ids in a row; where each word ends, filled with -1."""
    width = max(sum(len(word) for word in words) for words in batch)
    out = np.zeros((len(batch), 2, width), np.int32)
    out[:, 1] = -1
    for index, words in enumerate(batch):
        flat = [token for word in words for token in word]
        out[index, 0, : len(flat)] = flat
        out[index, 1, : len(words)] = np.cumsum([len(word) for word in words])
    return out


def _resolve(path, model_repository):
    """A relative path is taken from the folder that holds the model repository, whatever the working directory."""
    return Path(model_repository).absolute().parent.parent / path


def _load_tokenizer(folder):
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise pb_utils.TritonModelException(f"the server's Python lacks the package 'tokenizers': {error}") from None
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise pb_utils.TritonModelException(f"there is no tokenizer at {path}; check the parameter tokenizer_dir")
    tokenizer = Tokenizer.from_file(str(path))
    # A tokenizer.json may carry the padding and truncation of its training; a prompt is never cut silently.
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _json(path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}


def _special_id(folder, tokenizer, key, default):
    token = _json(folder / "tokenizer_config.json").get(key)
    content = token.get("content") if isinstance(token, dict) else token
    found = tokenizer.token_to_id(content) if content else None
    return default if found is None else found


def _end_ids(folder, tokenizer):
    """All ids that end a text, the tokenizer's own end-of-sequence token first when the model knows it."""
    named = _json(folder / "generation_config.json").get("eos_token_id")
    ends = [named] if isinstance(named, int) else list(named or [])
    own = _special_id(folder, tokenizer, "eos_token", None)
    if own is not None and (own in ends or not ends):
        ends = [own] + [end for end in ends if end != own]
    return ends


def _vocab_size(engine, tokenizer):
    """The model's own vocabulary, which may be padded beyond the tokenizer's."""
    config = _json(engine / "config.json")
    size = config.get("vocab_size", config.get("pretrained_config", {}).get("vocab_size"))
    return size if isinstance(size, int) else tokenizer.get_vocab_size(with_added_tokens=True)
