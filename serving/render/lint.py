"""Checks on rendered text: parsed as Triton parses it, compared with the contract, wired as the ensemble says.

The worst mistake is silent: a placeholder left inside a string parameter loads, and upstream's default applies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from profiles.triton_contract import Contract, Tensor
from serving.render.values import RepositoryValues
from trtllm_kit.errors import SpecError

PLACEHOLDER = "${"


def lint(files: Mapping[str, str], values: RepositoryValues) -> None:
    """Raise SpecError that lists everything wrong with a rendered repository (file name -> text)."""
    configs = {name.split("/")[0]: _parse(name, text) for name, text in files.items() if name.endswith("/config.pbtxt")}
    problems = [
        *_placeholders(files),
        *_missing_models(configs, values.contract),
        *(problem for model, config in configs.items() for problem in _model_problems(model, config, values)),
        *_ensemble_problems(configs),
    ]
    if problems:
        raise SpecError(
            "the rendered model repository is wrong:\n  " + "\n  ".join(problems),
            expected="what the Triton contract of this TensorRT-LLM release says",
            fix="undo local changes to model_repo_templates/, or report this",
        )


def _parse(name: str, text: str) -> Any:
    from google.protobuf import text_format
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    try:
        return text_format.Parse(text, ModelConfig())
    except text_format.ParseError as error:
        raise SpecError(
            f"{name} is not a Triton model configuration: {error}",
            expected="protobuf text format of inference.ModelConfig",
            fix="undo local changes to model_repo_templates/, or report this",
        ) from None


def _placeholders(files: Mapping[str, str]) -> Iterator[str]:
    for name, text in files.items():
        if PLACEHOLDER in text:
            yield f"{name}: a placeholder is left: {text[text.index(PLACEHOLDER) :].splitlines()[0]}"


def _missing_models(configs: Mapping[str, Any], contract: Contract) -> Iterator[str]:
    for model in contract:
        if model not in configs:
            yield f"{model}/config.pbtxt is missing"


def _model_problems(model: str, config: Any, values: RepositoryValues) -> Iterator[str]:
    rows = values.contract[model]
    if config.name != model:
        yield f"{model}: the folder's name is not the model's name '{config.name}'"
    yield from _tensor_problems(f"{model} input", _tensors(config.input, is_input=True), rows.inputs)
    yield from _tensor_problems(f"{model} output", _tensors(config.output, is_input=False), rows.outputs)
    wanted = values.parameters.get(model, {})
    found = {key: value.string_value for key, value in config.parameters.items()}
    for key in sorted(set(rows.parameters) - set(found)):
        yield f"{model}: parameter {key} is missing"
    for key in sorted(found):
        if found[key] != wanted.get(key):
            yield f"{model}: parameter {key} is '{found[key]}', expected '{wanted.get(key)}'"
    if any(group.kind != group.KIND_CPU for group in config.instance_group):
        yield f"{model}: instance_group must be KIND_CPU"


def _tensors(items: Iterable[Any], *, is_input: bool) -> list[Tensor]:
    from tritonclient.grpc.model_config_pb2 import DataType

    return [
        Tensor(
            name=item.name,
            dtype=DataType.Name(item.data_type),
            dims=tuple(item.dims),
            optional=is_input and item.optional,
            ragged=is_input and item.allow_ragged_batch,
            scalar=item.HasField("reshape"),
        )
        for item in items
    ]


def _tensor_problems(where: str, found: list[Tensor], wanted: tuple[Tensor, ...]) -> Iterator[str]:
    names = [tensor.name for tensor in found]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"{where} {name} is declared twice"
    have, want = {tensor.name: tensor for tensor in found}, {tensor.name: tensor for tensor in wanted}
    for name in sorted(want.keys() - have.keys()):
        yield f"{where} {name} is missing"
    for name in sorted(have.keys() - want.keys()):
        yield f"{where} {name} is not in the contract"
    for name in sorted(have.keys() & want.keys()):
        if have[name] != want[name]:
            yield f"{where} {name} differs from the contract: {have[name]}, expected {want[name]}"


def _ensemble_problems(configs: Mapping[str, Any]) -> Iterator[str]:
    """Every wire ends at a tensor that exists, with one data type and shape on all its ends."""
    ensemble = configs.get("ensemble")
    if ensemble is None:
        return
    wires: dict[str, Any] = {item.name: item for item in ensemble.input}
    read: set[str] = set()
    for step in ensemble.ensemble_scheduling.step:
        member = configs.get(step.model_name)
        if member is None:
            yield f"ensemble: step {step.model_name} has no model"
            continue
        if ensemble.max_batch_size > member.max_batch_size:
            yield f"ensemble: max_batch_size {ensemble.max_batch_size} is more than {step.model_name}'s"
        inputs, outputs = {item.name: item for item in member.input}, {item.name: item for item in member.output}
        for key, wire in sorted(step.input_map.items()):
            yield from _wire_problems(step.model_name, key, inputs, wire, wires)
            read.add(wire)
        for name in sorted(name for name, item in inputs.items() if not item.optional and name not in step.input_map):
            yield f"ensemble: {step.model_name} requires {name}, which is not mapped"
        for key, wire in sorted(step.output_map.items()):
            if key not in outputs:
                yield f"ensemble: {step.model_name} has no output {key}"
            else:
                wires[wire] = outputs[key]
    for item in ensemble.output:
        if item.name not in wires:
            yield f"ensemble: output {item.name} comes from no step"
        elif wires[item.name].data_type != item.data_type:
            yield f"ensemble: output {item.name} has another data type than the step that makes it"
    for item in ensemble.input:
        if item.name not in read:
            yield f"ensemble: input {item.name} is not used"


def _wire_problems(
    model: str, key: str, inputs: Mapping[str, Any], wire: str, wires: Mapping[str, Any]
) -> Iterator[str]:
    if key not in inputs:
        yield f"ensemble: {model} has no input {key}"
    elif wire not in wires:
        yield f"ensemble: {model}.{key} reads {wire}, which nothing has made yet"
    elif wires[wire].data_type != inputs[key].data_type:
        yield f"ensemble: {model}.{key} and {wire} have different data types"
