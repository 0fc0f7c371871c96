"""What a changed template could break, and Triton would find out late or never: each is refused with its place."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from serving.render import render, values_of
from serving.render.lint import lint
from trtllm_kit.errors import SpecError

LLM, BLS, PRE, ENSEMBLE = (
    f"{model}/config.pbtxt" for model in ("tensorrt_llm", "tensorrt_llm_bls", "preprocessing", "ensemble")
)
Edit = Callable[[str], str]


def swap(old: str, new: str) -> Edit:
    """Replace the first `old`; a test that finds nothing to replace is no test."""

    def edit(text: str) -> str:
        assert re.search(old, text, flags=re.DOTALL), old
        return re.sub(old, new, text, count=1, flags=re.DOTALL)

    return edit


def tensor(name: str) -> str:
    return rf'  {{\n    name: "{name}".*?\n  }},\n'


def mapping(side: str, key: str) -> str:
    return rf'      {side}_map {{\n        key: "{key}"\n.*?\n      }}\n'


@pytest.mark.parametrize(
    ("path", "edit", "says"),
    [
        (LLM, swap('string_value: "engine"', 'string_value: "${engine_dir}"'), "a placeholder is left"),
        (LLM, swap("max_batch_size: 8", "max_batch_size: ${n}"), "not a Triton model configuration"),
        (LLM, swap('name: "tensorrt_llm"', 'name: "llm"'), "folder's name is not the model's name 'llm'"),
        (LLM, swap(tensor("stop"), ""), "tensorrt_llm input stop is missing"),
        (LLM, swap(r'name: "stop"', 'name: "halt"'), "tensorrt_llm input halt is not in the contract"),
        (LLM, swap('("draft_logits"\n    data_type: )TYPE_FP32', r"\1TYPE_FP16"), "input draft_logits differs"),
        (LLM, swap('("input_lengths".*?)    reshape: { shape: . . }\n', r"\1"), "input input_lengths differs"),
        (LLM, swap('(key: "gpt_model_path".*?string_value: ")engine', r"\1elsewhere"), "gpt_model_path is 'elsewhere'"),
        (
            LLM,
            swap(r'parameters: {\n  key: "guided_decoding_backend".*?\n  }\n}\n', ""),
            "guided_decoding_backend is missing",
        ),
        (LLM, swap("KIND_CPU", "KIND_GPU"), "KIND_CPU"),
        (BLS, swap(tensor("kv_cache_alloc_total_blocks"), lambda m: m[0] * 2), "declared twice"),
        (
            PRE,
            swap("max_batch_size: 8", "max_batch_size: 4"),
            "ensemble: max_batch_size 8 is more than preprocessing's",
        ),
        (ENSEMBLE, swap(mapping("input", "input_lengths"), ""), "tensorrt_llm requires input_lengths"),
        (ENSEMBLE, swap(mapping("input", "streaming"), ""), "ensemble: input stream is not used"),
        (ENSEMBLE, swap(mapping("output", "INPUT_ID"), ""), "reads _INPUT_ID, which nothing has made yet"),
        (ENSEMBLE, swap(mapping("output", "num_output_tokens"), ""), "output num_output_tokens comes from no step"),
        (ENSEMBLE, swap('key: "TOKENS_BATCH"', 'key: "TOKENS"'), "postprocessing has no input TOKENS"),
        (ENSEMBLE, swap('key: "OUTPUT"', 'key: "TEXT"'), "postprocessing has no output TEXT"),
        (ENSEMBLE, swap('model_name: "postprocessing"', 'model_name: "after"'), "step after has no model"),
        (ENSEMBLE, swap('(key: "runtime_top_p"\n        value: ")top_p', r"\1top_k"), "have different data types"),
    ],
)
def test_a_wrong_file_is_refused_with_its_place(make_plan, path: str, edit: Edit, says: str) -> None:
    plan = make_plan()
    files = render(plan)
    with pytest.raises(SpecError, match=re.escape(says)):
        lint({**files, path: edit(files[path])}, values_of(plan))


def test_a_missing_model_is_refused(make_plan) -> None:
    plan = make_plan()
    files = {path: text for path, text in render(plan).items() if path != BLS}
    with pytest.raises(SpecError, match=r"tensorrt_llm_bls/config\.pbtxt is missing"):
        lint(files, values_of(plan))
