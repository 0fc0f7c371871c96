"""Globs on identifiers: `*-h100_sxm-*`, `llama-*-{fp8,nvfp4}-*`."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable
from fnmatch import fnmatchcase


def matches(identifier: str, pattern: str) -> bool:
    """Whether a glob, its braces written out, is the whole identifier."""
    return any(fnmatchcase(identifier, one) for one in expand_braces(pattern))


def expand_braces(pattern: str) -> list[str]:
    """`a{b,c{d,e}}f` as `abf`, `acdf`, `acef`. A brace without its other half, or without a comma, is a plain sign."""
    start = pattern.find("{")
    while start >= 0:
        end, commas = _closing(pattern, start)
        if end is not None and commas:
            cuts = [start, *commas, end]
            parts = [pattern[left + 1 : right] for left, right in itertools.pairwise(cuts)]
            return [one for part in parts for one in expand_braces(pattern[:start] + part + pattern[end + 1 :])]
        start = pattern.find("{", start + 1)
    return [pattern]


def nearest(pattern: str, identifiers: Iterable[str]) -> str | None:
    """The identifier that somebody who wrote `pattern` most likely meant."""
    return next(iter(difflib.get_close_matches(pattern, list(identifiers), n=1, cutoff=0.0)), None)


def _closing(pattern: str, start: int) -> tuple[int | None, list[int]]:
    """Where the brace at `start` ends, and where its own commas are."""
    depth, commas = 0, []
    for place in range(start, len(pattern)):
        sign = pattern[place]
        depth += (sign == "{") - (sign == "}")
        if sign == "," and depth == 1:
            commas.append(place)
        if depth == 0:
            return place, commas
    return None, []
