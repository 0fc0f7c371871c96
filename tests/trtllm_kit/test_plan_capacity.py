"""`trtllm-kit plan` with a load, as a person sees it."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

LOAD = ("--isl", "1024", "--osl", "256")
MODEL = ("--model", "meta-llama/Llama-3.1-8B-Instruct")


def test_a_plan_names_its_choice_and_why(front_door) -> None:
    done = front_door.ok("plan", *MODEL, "--sku", "h100_sxm", *LOAD, "--tpot", "50")
    assert "llama-3.1-8b on h100_sxm: prompts of 1,024 and answers of 256 tokens" in done.out
    assert "tokens/s/GPU" in done.out
    assert "the cheapest of" in done.out
    assert "TPOT <= 50 ms" in done.out


def test_json_has_every_candidate_with_intervals_and_prices(front_door) -> None:
    found = front_door.ok("plan", *MODEL, "--sku", "h100_sxm", "--precision", "fp8", *LOAD, "--output", "json").json
    assert found["model"] == "llama-3.1-8b"
    assert [row["tp_size"] for row in found["candidates"]].count(1) == 1
    for row in [found["chosen"], *found["front"], *found["candidates"]]:
        assert (row["sku"], row["precision"]) == ("h100_sxm", "fp8")
        for name in ("output_tokens_per_s", "ttft_ms", "tpot_ms"):
            assert row[name]["low"] <= row[name]["value"] <= row[name]["high"]
            assert row[name]["basis"]
        assert row["tokens_per_s_per_gpu"] == pytest.approx(row["output_tokens_per_s"]["value"] / row["gpus"])
        assert row["usd_per_million_output_tokens"] == pytest.approx(
            row["usd_per_hour"] * 1e6 / 3600 / row["output_tokens_per_s"]["value"]
        )
        assert row["price"]["source"]


def test_any_sku_weighs_them_all_and_their_slices(front_door) -> None:
    found = front_door.ok("plan", *MODEL, "--sku", "any", *LOAD, "--output", "json").json
    seen = {row["sku"] for row in found["candidates"]}
    assert {"l4", "a100_sxm_80gb", "h100_sxm", "b200_sxm", "h100_sxm_3g_40gb"} <= seen
    assert "t4" not in seen


def test_several_are_named_with_commas(front_door) -> None:
    keys = ("plan", *MODEL, "--sku", "l4,l40s", "--precision", "bf16,fp8", *LOAD, "--output", "json")
    found = front_door.ok(*keys).json["candidates"]
    assert {(row["sku"], row["precision"]) for row in found} == {
        (sku, precision) for sku in ("l4", "l40s") for precision in ("bf16", "fp8")
    }


def test_own_prices_decide_and_old_ones_are_warned_of(front_door) -> None:
    (front_door.folder / "own.csv").write_text(
        "sku,kind,usd_per_gpu_hour,provider,date\nl40s,on_demand,0.0001,us,2020-01-02\n"
    )
    keys = ("plan", *MODEL, "--sku", "any", *LOAD, "--output", "json", "--max-price-age", "100000")
    assert front_door.ok(*keys).json["chosen"]["sku"] != "l40s"
    front_door.monkeypatch.setenv("TRTLLM_KIT_PRICES", "own.csv")
    done = front_door.ok(*keys[:-1], "365")
    assert done.json["chosen"]["sku"] == "l40s"
    assert "the price of l40s is of 2020-01-02, older than 365 days" in done.err


def test_a_folder_is_counted_by_its_headers(front_door, tiny_llama: Path) -> None:
    found = front_door.ok("plan", "--model", str(tiny_llama), "--sku", "l4", *LOAD, "--output", "json").json
    assert found["model"] == "tiny-llama"
    config = front_door.ok(
        "plan", "--model", str(tiny_llama / "config.json"), "--sku", "l4", *LOAD, "--output", "json"
    ).json
    assert config["candidates"] == found["candidates"]


def test_the_spec_gives_what_the_options_leave_out(front_door, tiny_llama: Path) -> None:
    front_door.ok("init", "--model", str(tiny_llama))
    found = front_door.ok("plan", "--set", "target.sku=l4", "--set", "precision=bf16", *LOAD, "--output", "json").json
    assert {(row["sku"], row["precision"]) for row in found["candidates"]} == {("l4", "bf16")}
    assert (
        front_door.ok("plan", "--sku", "cpu", "--output", "json").json["identifier"] == "tiny-llama-bf16-cpu-tp1pp1-cpu"
    )


def of_svg(text: str) -> None:
    tree = ElementTree.fromstring(text)
    assert tree.tag.endswith("svg")
    assert len(tree.findall(".//{http://www.w3.org/2000/svg}circle")) > 20


def of_page(text: str) -> None:
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")  # nothing beside it is needed
    of_svg(text[text.index("<svg") : text.index("</svg>") + 6])


@pytest.mark.parametrize(("name", "check"), [("out.svg", of_svg), ("out.html", of_page)])
def test_the_picture(front_door, name: str, check: Callable[[str], None]) -> None:
    front_door.ok("plan", *MODEL, "--sku", "h100_sxm", *LOAD, "--tpot", "50", "--plot", name)
    check((front_door.folder / name).read_text())


def test_a_png_is_drawn_or_the_missing_extra_is_named(front_door) -> None:
    done = front_door.run("plan", *MODEL, "--sku", "l4", *LOAD, "--plot", "out.png")
    file = front_door.folder / "out.png"
    if importlib.util.find_spec("resvg_py"):
        assert file.read_bytes().startswith(b"\x89PNG")
    else:
        assert (done.code, "trtllm-kit[report]" in done.err, file.exists()) == (4, True, False)


def test_a_picture_of_no_known_kind_is_refused(front_door) -> None:
    done = front_door.run("plan", *MODEL, "--sku", "l4", *LOAD, "--plot", "out.gif")
    assert done.code == 2
    assert ".html, .svg or .png" in done.err


def test_a_limit_that_nothing_meets_ends_with_7_and_the_miss(front_door) -> None:
    done = front_door.run("plan", *MODEL, "--sku", "l4", *LOAD, "--ttft", "0.01")
    assert done.code == 7
    assert "over 0.01 ms" in done.err


def test_what_does_not_fit_ends_with_8_and_the_ledger(front_door) -> None:
    done = front_door.run("plan", "--model", "llama-3.1-405b", "--sku", "l4", "--max-gpus", "1", *LOAD)
    assert done.code == 8
    for words in ("linear weights", "KV cache", "GB are missing", "to do:"):
        assert words in done.err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((*MODEL, "--sku", "h100", *LOAD), 3, "h100_sxm"),
        (("--model", "llama-3-9b", "--sku", "l4", *LOAD), 3, "llama-3-8b"),
        ((*MODEL, "--sku", "l4", "--isl", "1024"), 2, "--osl"),
        ((*MODEL, "--sku", "l4", "--plot", "x.svg"), 2, "--isl and --osl"),
        ((*MODEL, "--sku", "a100_sxm_80gb", "--precision", "fp8", *LOAD), 3, "FP8 needs Ada or newer"),
        ((*MODEL, "--sku", "l4", "--precision", "fp7", *LOAD), 3, "unknown precision"),
        ((*MODEL, "--sku", "l4", "--trtllm-version", "9.9", *LOAD), 3, "9.9"),
        ((*MODEL, "--sku", "a100_sxm_80gb", "--kv-dtype", "nvfp4", *LOAD), 3, "NVFP4 KV cache"),
        ((*MODEL, "--sku", "l4", "--provider", "amazon", *LOAD), 3, "aws"),
        ((*MODEL, "--sku", "l4", "--prices", "absent.csv", *LOAD), 3, "absent.csv"),
        (("--model", "broken.json", "--sku", "l4", *LOAD), 3, "num_attention_heads"),
    ],
)
def test_bad_input_is_refused_with_a_way_out(front_door, arguments: tuple[str, ...], code: int, words: str) -> None:
    (front_door.folder / "broken.json").write_text(json.dumps({"hidden_size": 8}))
    done = front_door.run("plan", *arguments)
    assert (done.code, words in done.err) == (code, True), done.err


@pytest.mark.parametrize("same", ["50ms", "0.05s", "50000us"])
def test_a_limit_may_name_its_unit(front_door, same: str) -> None:
    plain, named = (
        front_door.ok("plan", *MODEL, "--sku", "h100_sxm", *LOAD, "--tpot", limit) for limit in ("50", same)
    )
    assert plain.out == named.out


@pytest.mark.parametrize("wrong", ["0", "-5", "50m", "ms", "fast"])
def test_a_limit_that_is_no_time_is_refused(front_door, wrong: str) -> None:
    done = front_door.run("plan", *MODEL, "--sku", "h100_sxm", *LOAD, "--tpot", wrong)
    assert done.code == 2 and "50ms" in done.err
