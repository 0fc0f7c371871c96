"""`trtllm-kit sku`, as a person sees it."""

from __future__ import annotations

from pathlib import Path

import pytest

from profiles.skus import skus, slices


def test_every_sku_is_listed_and_slices_on_request(front_door) -> None:
    assert [row["id"] for row in front_door.ok("sku", "list", "--output", "json").json] == list(skus())
    assert {row["id"] for row in front_door.ok("sku", "list", "--mig", "--output", "json").json} == {*skus(), *slices()}
    line = next(line for line in front_door.ok("sku", "list").out.splitlines() if line.startswith("h100_sxm"))
    assert line.split()[1:8] == ["Hopper", "90", "80", "3350", "989", "1979", "0"]


def test_a_sku_is_shown_with_sources_and_prices(front_door) -> None:
    facts = front_door.ok("sku", "show", "h100_sxm", "--output", "json").json
    assert (facts["pci_device_ids"], facts["kubernetes_label"]) == (["2330"], "NVIDIA-H100-80GB-HBM3")
    assert facts["mig_profiles"][0]["id"] == "h100_sxm_1g_10gb"
    assert all(offer["source"] and offer["date"] for offer in facts["prices"])
    text = front_door.ok("sku", "show", "h100_sxm:3g.40gb").out
    assert "h100_sxm_3g_40gb" in text
    assert "an estimate" in text
    assert "not confirmed" in front_door.ok("sku", "show", "gh200_96gb").out


def test_detect_answers_on_any_machine(front_door) -> None:
    found = front_door.ok("sku", "detect", "--output", "json").json
    assert bool(found["gpus"]) != bool(found["reason"])


def test_a_ledger_with_its_answers(front_door) -> None:
    keys = ("sku", "fit", "h100_sxm", "--model", "llama-3-8b", "--lengths", "uniform:50:2048")
    found = front_door.ok(*keys, "--output", "json").json
    assert {line["name"] for line in found["lines"]} >= {"linear weights", "embedding", "head", "activations", "driver"}
    assert found["kv_sequence_bytes"] == 8192 * 128 * 1024
    assert found["sequences_at_full_length"] < found["sequences_safely"] < found["sequences_on_average"]
    fp8 = front_door.ok(*keys, "--kv-dtype", "fp8", "--output", "json").json
    assert fp8["kv_pool_tokens"] == pytest.approx(2 * found["kv_pool_tokens"], rel=1e-3)
    assert "weights by config.json" in front_door.ok(*keys).out


def test_a_checkpoint_is_counted_by_its_headers(front_door, tiny_llama: Path) -> None:
    assert "weights by safetensors headers" in front_door.ok("sku", "fit", "l4", "--model", str(tiny_llama)).out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("show", "h100"), 3, "h100_sxm"),
        (("show", "l4:1g.5gb"), 3, "MIG does not cut"),
        (("fit", "h100_sxm", "--model", "llama-3-70b"), 8, "set target.tp_size to 2"),
        (("fit", "h100_sxm_1g_10gb", "--model", "llama-3-8b"), 8, "choose a precision"),
        (("fit", "h100_sxm", "--model", "llama-3-8b", "--tp", "3"), 3, "1, 2, 4, 8, 16, 32"),
        (("fit", "h100_sxm_3g_40gb", "--model", "llama-3-8b", "--tp", "2"), 3, "use h100_sxm"),
        (("fit", "cpu", "--model", "llama-3-8b"), 3, "a GPU SKU"),
        (("fit", "l4", "--model", "llama-3-8b", "--lengths", "many"), 3, "uniform:50:2048"),
        (("fit", "l4", "--model", "nothing-like-it"), 3, "did you mean"),
    ],
)
def test_bad_input_is_refused_with_a_way_out(front_door, arguments: tuple[str, ...], code: int, words: str) -> None:
    done = front_door.run("sku", *arguments)
    assert (done.code, words in done.err) == (code, True), done.err
