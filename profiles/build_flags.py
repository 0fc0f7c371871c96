"""The real flag table of `trtllm-build`: which flags there are, which values they take, in which versions."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from profiles.tables import rows, words
from profiles.versions import compare
from trtllm_kit.errors import SpecError


@dataclass(frozen=True, kw_only=True)
class BuildFlag:
    """One flag. `kind`: "int", "str", "choice" (of `choices`) or "flag" (takes no value)."""

    name: str  # without dashes
    alias: str
    kind: str
    choices: tuple[str, ...]
    default: str  # "" for none
    since: str  # first TensorRT-LLM version that has it, "" for all
    before: str  # first version that no longer has it, "" for none

    def exists_in(self, version: str) -> bool:
        """Whether that version's parser knows the flag."""
        return (not self.since or compare(version, self.since) >= 0) and (
            not self.before or compare(version, self.before) < 0
        )


@functools.cache
def flags() -> Mapping[str, BuildFlag]:
    """All flags by name, aliases included."""
    table = [_flag(row) for row in rows("trtllm_build_flags")]
    return {name: flag for flag in table for name in (flag.name, flag.alias) if name}


def check_argv(argv: Sequence[str], version: str) -> None:
    """Refuse arguments that the parser of `version` would refuse; SpecError lists all of them.

    `argv` is what follows the program's name: `--flag value` pairs and bare `--flag`s.
    """
    problems, rest = [], list(argv)
    while rest:
        word = rest.pop(0)
        flag = flags().get(word.removeprefix("--")) if word.startswith("--") else None
        if flag is None or not flag.exists_in(version):
            problems.append(f"{word} is no flag of trtllm-build {version}{_hint(word)}")
            while rest and not rest[0].startswith("--"):
                rest.pop(0)
        elif flag.kind != "flag":
            problems += _value_problems(flag, rest.pop(0) if rest and not rest[0].startswith("--") else None)
    if problems:
        raise SpecError(
            "trtllm-build would refuse its arguments: " + "; ".join(problems),
            expected=f"the flags of TensorRT-LLM {version}",
            fix="correct `build:` in the spec",
        )


def _value_problems(flag: BuildFlag, value: str | None) -> list[str]:
    if value is None:
        return [f"--{flag.name} needs a value"]
    if flag.kind == "choice" and value not in flag.choices:
        return [f"--{flag.name} {value}: expected one of {', '.join(flag.choices)}"]
    if flag.kind == "int" and not value.isdecimal():
        return [f"--{flag.name} {value}: expected a whole number"]
    return []


def _hint(word: str) -> str:
    near = difflib.get_close_matches(word.removeprefix("--"), flags(), n=1, cutoff=0.8)
    return f" (did you mean --{near[0]}?)" if near and near[0] != word.removeprefix("--") else ""


def _flag(row: Mapping[str, str]) -> BuildFlag:
    return BuildFlag(
        name=row["flag"],
        alias=row["alias"],
        kind=row["kind"],
        choices=words(row["choices"]),
        default=row["default"],
        since=row["since"],
        before=row["before"],
    )
