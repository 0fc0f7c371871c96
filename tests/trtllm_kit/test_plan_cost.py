"""`trtllm-kit cost`, as a person sees it: every figure with its formula and its numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

GIVEN = ("--price", "3.5", "--tokens-per-s", "1000")
PREDICTED = ("--sku", "h100_sxm", "--model", "llama-3.1-8b", "--isl", "2000", "--osl", "400")
WORKLOAD = {
    "requests_per_day": 10_000,
    "system_prompt_tokens": 1200,
    "input_tokens": 300,
    "output_tokens": 800,
    "retry_rate": 0.05,
    "cached_share": 0.5,
    "storage_usd_per_month": 50,
    "egress_usd_per_month": 20,
    "operations_usd_per_month": 400,
}


def figures(front_door, *arguments: str) -> dict[str, float]:
    found = front_door.ok("cost", *arguments, "--output", "json").json["figures"]
    assert all(row["formula"] for row in found)
    return {row["name"]: row["value"] for row in found}


def test_the_price_of_a_million_tokens_with_its_formula(front_door) -> None:
    done = front_door.ok("cost", "per-token", *GIVEN)
    assert "$0.97222/M   $3.5/h × 1,000,000 / (1,000 tokens/s × 3,600 s)" in done.out
    assert figures(front_door, "per-token", *GIVEN, "--gpus", "2")[
        "a million output tokens, input free"
    ] == pytest.approx(1.94444, abs=5e-6)


def test_prices_by_kind_of_token_from_a_prediction(front_door) -> None:
    found = figures(front_door, "per-token", *PREDICTED)
    speed, hour = found["speed"], found["an hour of the replica"]
    assert found["input"] < found["output"]
    earned = (found["input"] * speed * 2000 / 400 + found["output"] * speed) * 3600 / 1e6
    assert earned == pytest.approx(hour)
    assert found["cached input"] == pytest.approx(0.1 * found["input"])


def test_prices_from_a_validation_report(front_door) -> None:
    level = {"output_tokens_per_s": 500.0, "concurrency": 8, "ttft_ms": {"p50": 80.0}}
    alone = {"output_tokens_per_s": 90.0, "concurrency": 1, "ttft_ms": {"p50": 20.0}}
    data = {"levels": [alone, level], "input_len": 128, "output_len": 64}
    (front_door.folder / "report.json").write_text(json.dumps({"checks": [{"name": "throughput", "data": data}]}))
    found = figures(front_door, "per-token", "--price", "3.5", "--report", "report.json")
    assert found["speed"] == 500
    prefill, taken = 128 / 0.020, 500 * 128 / 64
    assert found["cost of an output token in input tokens"] == pytest.approx((1 - taken / prefill) / 500 * prefill)


def test_a_real_report_is_read(built, running, front_door) -> None:
    running()
    report = built.run(
        "validate", "--check", "throughput", "--concurrency", "2", "--requests-per-level", "4", "--output", "json"
    )
    (front_door.folder / "report.json").write_text(report.out)
    found = figures(front_door, "per-token", "--price", "1", "--report", "report.json", "--output-ratio", "3")
    (check,) = [row for row in report.json["checks"] if row["name"] == "throughput"]
    assert found["speed"] == check["data"]["levels"][0]["output_tokens_per_s"]


def test_the_required_speed_and_whether_it_is_reached(front_door) -> None:
    assert figures(front_door, "required", "--price", "3.5", "--target", "1")["required speed"] == pytest.approx(
        972.222, abs=5e-4
    )
    done = front_door.run("cost", "required", *GIVEN, "--target", "0.5")
    assert done.code == 7
    assert "51%" in done.err
    assert front_door.run("cost", "required", *GIVEN, "--target", "1").code == 0


def test_break_even_in_tokens_speed_and_load(front_door) -> None:
    keys = ("break-even", *GIVEN, "--api-price", "0.9", "--tokens-per-month", "10e6")
    found = figures(front_door, *keys)
    assert found["a month of the replica"] == 2520
    assert found["tokens a month"] == pytest.approx(2.8e9)
    assert found["day and night"] == pytest.approx(1080.2, abs=0.05)
    assert found["utilisation"] > 1
    assert found["saved a month"] == pytest.approx(-2511)
    assert "the API stays cheaper" in front_door.ok("cost", *keys).out


def test_a_mix_over_a_trace(front_door) -> None:
    (front_door.folder / "trace").write_text("\n".join(["300"] * 8 + ["900"] * 2))
    rates = ("--on-demand", "3.5", "--reserved", "2.1", "--spot", "1.05")
    found = figures(front_door, "mix", "--trace", "trace", "--gpu-tokens-per-s", "300", *rates)
    assert found["together"] == pytest.approx(10 * 2.1 + 4 * 3.5)
    assert found["all on-demand"] == pytest.approx(14 * 3.5)
    spot = figures(front_door, "mix", "--trace", "trace", "--gpu-tokens-per-s", "300", *rates, "--spot-share", "1")
    assert spot["together"] < found["together"]
    assert spot["stand-ins for interrupted spot"] == pytest.approx(14 * 0.05 / 6 * 3.5)
    by_sku = figures(
        front_door, "mix", "--trace", "trace", "--gpu-tokens-per-s", "300", "--sku", "h100_sxm", "--provider", "aws"
    )
    assert by_sku["all on-demand"] == pytest.approx(14 * 6.88)


@pytest.mark.parametrize(
    ("shares", "rate"),
    [(("reserved=0.7", "on_demand=0.3"), 2.52), (("reserved=0.7", "on_demand=0.2", "spot=0.1"), 2.275)],
)
def test_a_fixed_mix(front_door, shares: tuple[str, ...], rate: float) -> None:
    keys = [word for share in shares for word in ("--share", share)]
    rates = ("--on-demand", "3.5", "--reserved", "2.1", "--spot", "1.05")
    assert figures(front_door, "blend", *keys, *rates)["blended rate"] == pytest.approx(rate)


def test_mfu_and_mbu_of_a_measured_speed(front_door) -> None:
    found = figures(
        front_door, "utilisation", "--model", "llama-3-8b", "--sku", "a100_sxm_80gb", "--precision", "bf16",
        "--tokens-per-s", "1000", "--batch", "16",
    )  # fmt: skip
    parameters = 8.030e9 - 128256 * 4096  # the embedding is looked up, not multiplied
    assert found["MFU"] == pytest.approx(2 * parameters * 1000 / 312e12, rel=1e-3)
    assert found["MBU"] == pytest.approx(1000 / 16 * 2 * parameters / 2039e9, rel=1e-3)
    assert found["floor of TPOT"] == pytest.approx(2 * parameters / 2039e9 * 1e3, rel=1e-3)


def write(path: Path, content: dict[str, object]) -> str:
    path.write_text(json.dumps(content))  # JSON is YAML
    return str(path)


def test_the_bill_of_a_workload(front_door) -> None:
    file = write(front_door.folder / "w.yaml", WORKLOAD)
    keys = ("--price", "3.5", "--tokens-per-s", "400", "--isl", "1500", "--osl", "800", "--output-ratio", "3")
    done = front_door.ok("cost", "estimate", "--workload", file, *keys, "--output", "json").json["figures"]
    price, bill = done[2:5], {row["name"]: row["value"] for row in done[5:]}
    attempts = 10_000 * 30 * 1.05
    assert bill["input"] == pytest.approx(attempts * (300 + 600) * price[0]["value"] / 1e6)
    assert bill["cached input"] == pytest.approx(attempts * 600 * price[1]["value"] / 1e6)
    assert bill["output"] == pytest.approx(attempts * 800 * price[2]["value"] / 1e6)
    gpu = bill["input"] + bill["cached input"] + bill["output"] + bill["idle capacity"]
    assert gpu / (3.5 * 720) == pytest.approx(round(gpu / (3.5 * 720)))  # replicas are whole
    assert bill["together"] == pytest.approx(gpu + 470)
    assert bill["share of GPUs"] == pytest.approx(gpu / (gpu + 470))


def test_output_counts_in_proportion(front_door) -> None:
    """800 answer tokens where 200 were assumed are four times the money."""
    lines = []
    for tokens in (200, 800):
        file = write(front_door.folder / "w.yaml", {**WORKLOAD, "output_tokens": tokens})
        keys = ("--price", "3.5", "--tokens-per-s", "400", "--isl", "1500", "--osl", "800", "--output-ratio", "3")
        rows = front_door.ok("cost", "estimate", "--workload", file, *keys, "--output", "json").json["figures"][5:]
        lines.append(next(row["value"] for row in rows if row["name"] == "output"))
    assert lines[1] == pytest.approx(4 * lines[0])


@pytest.mark.parametrize("field", WORKLOAD)
def test_a_figure_that_is_left_out_is_an_error(front_door, field: str) -> None:
    file = write(front_door.folder / "w.yaml", {key: value for key, value in WORKLOAD.items() if key != field})
    done = front_door.run("cost", "estimate", "--workload", file, *GIVEN)
    assert done.code == 3
    assert f"{field}: field required" in done.err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("per-token", "--price", "3.5"), 2, "--tokens-per-s"),
        (("per-token", "--tokens-per-s", "9"), 2, "--sku"),
        (("per-token", *GIVEN, "--model", "llama-3-8b"), 2, "exactly one"),
        (("per-token", *GIVEN, "--isl", "9", "--osl", "9"), 2, "--output-ratio"),
        (("per-token", "--sku", "l4", "--model", "llama-3.1-405b", "--isl", "9", "--osl", "9"), 8, "GB are missing"),
        (
            ("per-token", "--sku", "a30", "--price", "1", "--model", "llama-3-8b", "--isl", "9", "--osl", "9"),
            3,
            "FP8 needs",
        ),
        (
            (
                "utilisation",
                "--sku",
                "a10g",
                "--precision",
                "bf16",
                "--model",
                "llama-3-8b",
                "--tokens-per-s",
                "9",
                "--batch",
                "1",
            ),
            3,
            "not confirmed",
        ),
        (("per-token", "--sku", "gb300", "--tokens-per-s", "9"), 3, "no on_demand price of gb300"),
        (("per-token", "--sku", "h100", "--tokens-per-s", "9"), 3, "h100_sxm"),
        (("per-token", "--price", "3", "--report", "absent.json"), 3, "absent.json"),
        (("per-token", "--price", "3", "--report", "empty.json"), 3, "no throughput"),
        (("mix", "--trace", "absent", "--gpu-tokens-per-s", "9", "--on-demand", "3"), 3, "absent"),
        (("mix", "--trace", "empty.json", "--gpu-tokens-per-s", "9", "--on-demand", "3"), 3, "trace"),
        (("blend", "--share", "reserved=1", "--on-demand", "3"), 2, "no reserved price"),
        (("blend", "--share", "bought=1", "--on-demand", "3"), 2, "reserved=0.5"),
        (("blend", "--share", "on_demand=0.9", "--on-demand", "3"), 3, "add up to 0.9"),
        (("estimate", "--workload", "absent.yaml", *GIVEN), 3, "absent.yaml"),
    ],
)
def test_bad_input_is_refused_with_a_way_out(front_door, arguments: tuple[str, ...], code: int, words: str) -> None:
    (front_door.folder / "empty.json").write_text("{}")
    done = front_door.run("cost", *arguments)
    assert (done.code, words in done.err) == (code, True), done.err
