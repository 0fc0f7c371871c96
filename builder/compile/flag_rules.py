"""Checks build flags against upstream's rules before any work: refuses, or says what upstream will silently change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from builder.compile.trtllm_facts import Facts, Finding, Rule
from builder.compile.trtllm_rules import LENGTHS, RULES
from builder.model_config import ModelConfig
from builder.plan import BuildFlags
from profiles import precisions
from trtllm_kit.errors import SpecError

_UNSCALED_ROPES = frozenset({"default", "su", "longrope", "llama3"})


def check_flags(
    build: BuildFlags,
    *,
    runtime: str,
    precision: str,
    kv_dtype: str,
    sm: int | None,
    config: ModelConfig,
    tp_size: int,
) -> tuple[BuildFlags, list[str]]:
    """The flags as upstream will use them, and a warning for each that it would have changed silently.

    Raises SpecError with everything that `trtllm-build` would refuse, all at once. Runtimes without `trtllm-build` keep
    to the rules about lengths only.
    """
    facts = Facts(
        flags=build,
        quant_algo=precisions.find(precision).quant_algo,
        kv_quant_algo=precisions.kv_quant_algo(kv_dtype),
        sm=sm or 0,
        architecture=config.architecture,
        tp_size=tp_size,
        max_position_embeddings=config.max_position_embeddings,
        rope_factor=1 if config.rope.kind in _UNSCALED_ROPES else float(config.rope.scaling.get("factor", 1)),
    )
    flags, findings = apply_rules(facts, RULES if runtime == "tensorrt" else (LENGTHS,))
    refused = [finding.text for finding in findings if finding.refused]
    if refused:
        raise SpecError(
            "these build flags do not work: " + "; ".join(refused),
            expected="build flags that trtllm-build accepts together",
            fix="change the flags named above under `build:`",
        )
    return flags, [finding.text for finding in findings]


def apply_rules(facts: Facts, rules: tuple[Rule, ...] = RULES) -> tuple[BuildFlags, list[Finding]]:
    """Every finding, and the flags after all silent changes. A change that one rule makes is seen by the next."""
    findings: list[Finding] = []
    for rule in rules:
        for finding in list(rule.find(facts)):
            before = {name: getattr(facts.flags, name) for name in finding.changes}
            if finding.changes and before == dict(finding.changes):
                continue
            facts = replace(facts, flags=replace(facts.flags, **finding.changes))
            findings.append(replace(finding, text=_describe(rule, finding, before)))
    return facts.flags, findings


def _describe(rule: Rule, finding: Finding, before: Mapping[str, Any]) -> str:
    steps = [f"{name} {before[name]} becomes {value}" for name, value in finding.changes.items()]
    return ", ".join(steps) + (": " if steps else "") + f"{finding.text} (rule {rule.id})"
