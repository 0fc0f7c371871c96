"""The engine layout's `config.pbtxt` as the cpu backend reads it: unmodified, with upstream's own meanings.

Upstream's C++ backend refuses to start without four of the keys and falls back to a default, with a warning, where a
value does not parse; so does this one. What the cpu runtime cannot do is refused at start rather than ignored.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from trtllm_kit.errors import IncompatibleError

_Value = TypeVar("_Value")
Warn = Callable[[str], None]

_MUST_EXIST = ("gpt_model_type", "tokenizer_dir", "xgrammar_tokenizer_info_path", "guided_decoding_backend")
_BATCHING = ("inflight_fused_batching", "inflight_batching")
_DECODING = ("", "top_k", "top_p", "top_k_top_p")
_BOOLS = dict.fromkeys(("True", "true", "TRUE", "1"), True) | dict.fromkeys(("False", "false", "FALSE", "0"), False)


@dataclass(frozen=True, kw_only=True)
class BackendParameters:
    """What the backend needs from `config.pbtxt`. Periods are in seconds."""

    engine: Path
    max_batch_size: int
    max_queue_size: int  # 0: no limit
    decoupled: bool
    enable_block_reuse: bool
    kv_tokens: int | None  # pool size asked for; None: as built
    attention_window: int | None  # tokens that a request may span; None: max_seq_len
    exclude_input_in_output: bool
    cancellation_period_s: float
    stats_period_s: float


def read_parameters(args: Mapping[str, str], warn: Warn) -> BackendParameters:
    """Parameters from what Triton passes to `initialize`; IncompatibleError where the cpu runtime cannot comply."""
    config = json.loads(args["model_config"])
    values = {key: item.get("string_value", "") for key, item in config.get("parameters", {}).items()}
    _check(values)
    read = _Reader(values, warn)
    windows = read.values("max_attention_window_size", int)
    queue = config.get("dynamic_batching", {}).get("default_queue_policy", {})
    return BackendParameters(
        engine=_resolve(values["gpt_model_path"], Path(args["model_repository"])),
        max_batch_size=int(config.get("max_batch_size", 0)),
        max_queue_size=int(queue.get("max_queue_size", 0)),
        decoupled=bool(config.get("model_transaction_policy", {}).get("decoupled", False)),
        enable_block_reuse=read.one("enable_kv_cache_reuse", _bool, True),
        kv_tokens=read.one("max_tokens_in_paged_kv_cache", int, None),
        attention_window=min(windows) if windows else None,
        exclude_input_in_output=read.one("exclude_input_in_output", _bool, False),
        cancellation_period_s=read.one("cancellation_check_period_ms", int, 100) / 1000,
        stats_period_s=read.one("stats_check_period_ms", int, 100) / 1000,
    )


class _Reader:
    def __init__(self, values: Mapping[str, str], warn: Warn) -> None:
        self._values = values
        self._warn = warn

    def one(self, key: str, parse: Callable[[str], _Value], default: Any) -> Any:
        """The parsed value; the default where it is absent, empty or, with a warning, not parsable."""
        text = _filled(self._values.get(key, ""))
        if not text:
            return default
        try:
            return parse(text)
        except ValueError:
            self._warn(f"parameter {key}: '{text}' does not parse; using the default {default}")
            return default

    def values(self, key: str, parse: Callable[[str], _Value]) -> list[_Value]:
        """A comma-separated list."""
        found = self.one(key, lambda text: [parse(part) for part in text.split(",")], [])
        return list(found)


def _bool(text: str) -> bool:
    if text not in _BOOLS:
        raise ValueError(text)
    return _BOOLS[text]


def _filled(text: str) -> str:
    """A template variable that was left in place counts as empty, as it does upstream."""
    return "" if text.startswith("${") else text.strip()


def _resolve(path: str, model: Path) -> Path:
    """A relative engine folder lies beside the model repository, so an artifact works from any working directory."""
    return Path(path) if Path(path).is_absolute() else model.parent.parent / path


def _check(values: Mapping[str, str]) -> None:
    absent = [key for key in _MUST_EXIST if key not in values]
    if absent:
        raise IncompatibleError(
            f"config.pbtxt lacks the parameter {', '.join(absent)}",
            expected="every parameter that the tensorrtllm backend reads",
            fix="render the model repository again",
        )
    for key, fits, expected in _LIMITS:
        text = _filled(values.get(key, ""))
        if not fits(text):
            raise IncompatibleError(
                f"config.pbtxt: parameter {key} is '{text}', which the cpu runtime cannot do",
                expected=expected,
                fix="correct the spec and build the repository again, or serve an engine of another runtime",
            )


_LIMITS: tuple[tuple[str, Callable[[str], bool], str], ...] = (
    ("gpt_model_type", lambda text: text in _BATCHING, " or ".join(_BATCHING)),
    ("gpt_model_path", lambda text: bool(text), "the engine's folder"),
    ("guided_decoding_backend", lambda text: not text, "no guided decoding"),
    ("encoder_model_path", lambda text: not text, "no encoder"),
    ("max_beam_width", lambda text: text in ("", "1"), "1: the cpu runtime has no beam search"),
    ("decoding_mode", lambda text: text in _DECODING, "top_k, top_p or top_k_top_p"),
    ("sink_token_length", lambda text: text in ("", "0"), "no attention sink"),
)
