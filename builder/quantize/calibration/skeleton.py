"""transformers' own model without its weights: layers that are filled one at a time, and what each is called with.

The model's forward runs once on stand-ins for its layers, which note their arguments: position embeddings, masks and
whatever else a family hands down. So no line of any model is repeated here.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from builder.families import Family
from builder.model_config import ModelConfig
from builder.quantize.calibration.experts import absent_experts
from builder.quantize.problem import Tensor
from trtllm_kit.errors import HostError, SpecError

EXPERTS = "experts"

Read = Callable[[str], Tensor]
"""A tensor of the checkpoint by its Hugging Face name, on the compute device, in the compute dtype."""


class Skeleton:
    """The layers of one model on the meta device.

    Args:
        device: "cpu" or "cuda"; everything that is computed lies there.
        dtype: of the forward pass, "float32" or "bfloat16".
    """

    def __init__(self, family: Family, config: ModelConfig, *, device: str, dtype: str) -> None:
        torch, transformers = _import()
        self._torch, self._family = torch, family
        self._device, self._dtype = torch.device(device), getattr(torch, dtype)
        settings = _settings(config)
        with _quiet():
            kind = getattr(transformers, config.architecture)
            settings._attn_implementation = _attention(kind, settings)
            with torch.device("meta"):
                self._model = kind(settings).eval()
            # Without layers and with one word it is small enough to be built with its buffers: rotary frequencies, an
            # embedding's scale. What the real sizes are then comes back by `settings`.
            shell = copy.deepcopy(settings)
            shell.num_hidden_layers, shell.vocab_size, shell.pad_token_id = 0, 1, None
            self._shell = kind(shell).base_model.to(self._device).eval()
        self._shell.config = settings
        self._layers = self._model.get_submodule(family.layers)
        self._stored: dict[str, str] = {}
        self.activation: Any = None  # of the experts, where there are any
        for layer in self._layers:
            self._part_with_experts(layer)

    def embed(self, ids: Tensor, rows: Callable[[Tensor], Tensor]) -> Tensor:
        """Hidden states [samples, length, hidden] of token ids [samples, length].

        Args:
            rows: rows of the embedding's weight for the ids that it is given: the whole is never in memory.
        """
        words, places = ids.unique(return_inverse=True)
        return self._run(places, rows(words))[0]

    def calls(self, length: int) -> list[dict[str, Any]]:
        """The keyword arguments of each layer for samples of `length` tokens without padding."""
        torch = self._torch
        nothing = torch.zeros(1, self._shell.config.hidden_size, dtype=self._dtype, device=self._device)
        return self._run(torch.zeros(1, length, dtype=torch.long), nothing)[1]

    def weights(self, index: int) -> dict[str, tuple[int, ...]]:
        """Hugging Face name and shape of what `layer` reads."""
        parameters = self._layers[index].named_parameters()
        return {self._full_name(index, name): tuple(held.shape) for name, held in parameters}

    @contextmanager
    def layer(self, index: int, read: Read) -> Iterator[Any]:
        """The layer as a module with its weights, which are dropped when the block ends."""
        module = self._layers[index]
        names = [name for name, _ in module.named_parameters()]
        try:
            module.load_state_dict({name: read(self._full_name(index, name)) for name in names}, assign=True)
            yield module.requires_grad_(False)
        finally:
            module.to_empty(device="meta")

    def _full_name(self, index: int, name: str) -> str:
        return f"{self._family.layers}.{index}.{self._stored.get(name, name)}"

    def final_norm(self, hidden: Tensor, read: Read) -> Tensor:
        """What the output layer reads."""
        norm = self._model.get_submodule(self._family.final_norm.removesuffix(".weight"))
        norm.load_state_dict({"weight": read(self._family.final_norm)}, assign=True)
        with self._torch.inference_mode():
            return norm(hidden)

    def _part_with_experts(self, layer: Any) -> None:
        """Take the experts out of a layer; transformers and the checkpoint differ in what the router is called."""
        path = next((name for name, _ in layer.named_modules() if name.endswith(f".{EXPERTS}")), None)
        if path is None:
            return
        block = layer.get_submodule(path.removesuffix(f".{EXPERTS}"))
        if not hasattr(block.experts, "act_fn"):
            raise HostError(
                "this transformers runs the experts of a layer one by one in its own code",
                expected="transformers 5 or newer for a mixture of experts",
                fix="pip install --upgrade transformers",
            )
        self.activation, block.experts = block.experts.act_fn, absent_experts()
        router = next(linear.hf for linear in self._family.linears if linear.slices[0].role == "router")
        self._stored[f"{path.removesuffix(EXPERTS)}gate.weight"] = f"{router}.weight"

    def experts_path(self, index: int) -> str:
        """Where the experts were in a layer that has any."""
        return next(str(name) for name, _ in self._layers[index].named_modules() if name.endswith(f".{EXPERTS}"))

    def _run(self, ids: Tensor, table: Tensor) -> tuple[Tensor, list[dict[str, Any]]]:
        """The shell's forward on stand-ins: (what the first layer gets, what each is called with)."""
        torch = self._torch
        seen: list[tuple[Tensor, dict[str, Any]]] = []
        self._shell.layers = torch.nn.ModuleList(_standin(torch, layer, seen) for layer in self._layers)
        self._shell.embed_tokens.weight = torch.nn.Parameter(
            table.to(device=self._device, dtype=self._dtype), requires_grad=False
        )
        with torch.inference_mode(), _quiet():
            self._shell(input_ids=ids.to(self._device), use_cache=False)
        return seen[0][0], [call for _, call in seen]


def _standin(torch: Any, layer: Any, seen: list[tuple[Tensor, dict[str, Any]]]) -> Any:
    class Standin(torch.nn.Module):  # type: ignore[misc]
        def forward(self, hidden: Tensor, **call: Any) -> Tensor:
            seen.append((hidden, call))
            return hidden

        def __getattr__(self, name: str) -> Any:
            """Some models ask a layer for its kind of attention."""
            try:
                return super().__getattr__(name)
            except AttributeError:
                return getattr(layer, name)

    return Standin()


def _settings(config: ModelConfig) -> Any:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if config.model_type not in CONFIG_MAPPING:
        raise SpecError(
            f"the installed transformers does not know the model type '{config.model_type}'",
            expected="a release that has it",
            fix="pip install --upgrade transformers",
        )
    raw = {key: value for key, value in config.raw.items() if key != "quantization_config"}
    with _quiet():
        return CONFIG_MAPPING[config.model_type].from_dict(raw)


def _attention(kind: Any, settings: Any) -> str:
    """transformers' sdpa leaves Gemma 2's soft cap of the scores out, in silence."""
    capped = getattr(settings, "attn_logit_softcapping", None) is not None
    return "sdpa" if getattr(kind, "_supports_sdpa", False) and not capped else "eager"


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers warns of configs in ways that mean nothing to who quantizes."""
    logger = logging.getLogger("transformers")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _import() -> tuple[Any, Any]:
    try:
        import torch
        import transformers
    except ImportError as error:
        raise HostError(
            f"calibration needs {error.name}, which is not installed",
            expected="torch and transformers",
            fix="pip install 'trtllm-kit[quantize]'",
        ) from None
    return torch, transformers
