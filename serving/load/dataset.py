"""Prompts and traces from JSONL files.

One object per line. A prompt is `prompt` (also `text_input`, `text`), `messages` ({role, content} each), or `turns` (a
list of such objects, each with an optional `delay_s`); `max_tokens` (also `output_len`, `output_length`) bounds the
answer. A trace's lines have `timestamp` in milliseconds, as Mooncake's, or `timestamp_s`; in place of a prompt they may
have `input_length` and `hash_ids`: equal ids stand for equal blocks of 512 tokens.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serving.load.arrivals import Replay
from serving.load.prompts import TextSource
from serving.load.workload import Given, Session, Turn
from trtllm_kit.errors import UsageError

_TEXTS = ("prompt", "text_input", "text")
_LIMITS = ("max_tokens", "output_len", "output_length")
_BLOCK_TOKENS = 512

Row = Mapping[str, Any]


def read_dataset(path: Path, *, max_tokens: int, seed: int | None = None) -> Given:
    """Prompts of a file; those that set no limit of their own get `max_tokens`. UsageError names the line."""
    source = TextSource(None)
    return Given(given=[_session(row, where, max_tokens, source) for where, row in _rows(path)], seed=seed)


def read_trace(
    path: Path, *, max_tokens: int, speed: float = 1.0, tokenizer_dir: Path | None = None
) -> tuple[Replay, Given]:
    """Arrival times and sessions of a trace, in order of time, the first at 0. UsageError names the line."""
    source = TextSource(tokenizer_dir)
    timed = sorted(
        ((_time_s(row, where), _session(row, where, max_tokens, source)) for where, row in _rows(path)),
        key=lambda pair: pair[0],
    )
    given = Given(given=[session for _, session in timed], once=True)
    return Replay(at_s=[at_s - timed[0][0] for at_s, _ in timed], speed=speed), given


def _rows(path: Path) -> list[tuple[str, Row]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}", expected="a JSONL file in UTF-8") from None
    rows: list[tuple[str, Row]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path.name}:{number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UsageError(f"{where} is no JSON: {error}", expected="one JSON object per line") from None
        if not isinstance(row, dict):
            raise UsageError(f"{where} is no object", expected="one JSON object per line")
        rows.append((where, row))
    if not rows:
        raise UsageError(f"{path} is empty", expected="one JSON object per line")
    return rows


def _session(row: Row, where: str, max_tokens: int, source: TextSource) -> Session:
    turns = row.get("turns") or [row]
    try:
        return Session(turns=tuple(_turn(turn, where, max_tokens, source) for turn in turns))
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise UsageError(f"{where} cannot be used: {error!r}", expected="a prompt, messages or turns") from None


def _turn(row: Row, where: str, max_tokens: int, source: TextSource) -> Turn:
    limit = int(next((row[key] for key in _LIMITS if key in row), max_tokens))
    text = next((str(row[key]) for key in _TEXTS if key in row), None)
    messages = tuple((str(said["role"]), str(said["content"])) for said in row.get("messages", ()))
    length = int(row["input_length"]) if "input_length" in row else None
    if text is None and not messages:
        if length is None:
            raise UsageError(f"{where} has no prompt", expected=f"one of {', '.join(_TEXTS)}, messages, input_length")
        text = _blocks(length, row.get("hash_ids") or (where,), source)
    if limit < 1:
        raise UsageError(f"{where} asks for {limit} tokens", expected="1 or more")
    return Turn(
        text=text or "",
        messages=messages,
        max_tokens=limit,
        input_tokens=length,
        delay_s=float(row.get("delay_s", 0.0)),
    )


def _blocks(tokens: int, ids: Any, source: TextSource) -> str:
    """A text of `tokens` tokens whose blocks depend on nothing but their ids; the last one goes on to the end."""
    parts = []
    for at, block in enumerate(ids):
        size = min(_BLOCK_TOKENS, tokens) if at < len(ids) - 1 else tokens
        if size > 0:
            parts.append(source.text(size, random.Random(f"block/{block}")))
        tokens -= size
    return " ".join(parts)


def _time_s(row: Row, where: str) -> float:
    try:
        return float(row["timestamp_s"]) if "timestamp_s" in row else float(row["timestamp"]) / 1e3
    except (KeyError, TypeError, ValueError):
        raise UsageError(f"{where} has no timestamp", expected="timestamp (milliseconds) or timestamp_s") from None
