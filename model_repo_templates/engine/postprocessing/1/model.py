"""Token ids to text, each response by itself: what the ensemble can do, since it keeps nothing between responses.

A character whose bytes span two streamed responses comes out as replacement characters here; `tensorrt_llm_bls` keeps
state and does not have that limit. Runs in the server's Python; needs numpy and tokenizers.
"""

import json
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        self._tokenizer = _load_tokenizer(_resolve(parameters["tokenizer_dir"], args["model_repository"]))
        self._skip_special_tokens = parameters.get("skip_special_tokens", "true").lower() in ("true", "1")

    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        tokens = pb_utils.get_input_tensor_by_name(request, "TOKENS_BATCH").as_numpy()
        lengths = pb_utils.get_input_tensor_by_name(request, "SEQUENCE_LENGTH").as_numpy()
        texts = [
            [self._decode(beam[:length]) for beam, length in zip(beams, beam_lengths, strict=True)]
            for beams, beam_lengths in zip(tokens, lengths, strict=True)
        ]
        return pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT", np.array(texts, dtype=np.object_))])

    def _decode(self, ids):
        text = self._tokenizer.decode([int(i) for i in ids if i >= 0], skip_special_tokens=self._skip_special_tokens)
        return text.encode("utf-8")


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
    return Tokenizer.from_file(str(path))
