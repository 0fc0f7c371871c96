"""Whole comparisons: on mock servers by the same interface, and of real artifacts on a real tritonserver."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from builder import manifest as manifests
from builder.store import Store
from serving.client.request import Endpoint
from serving.load.lengths import Lengths
from serving.load.workload import Synthetic
from serving.nightly import ab
from serving.nightly.ab.contender import LostError
from serving.nightly.ab.contest import contest
from serving.nightly.ab.load import Load
from serving.nightly.ab.rounds import Rounds
from trtllm_kit.console import Silent
from trtllm_kit.errors import HostError
from trtllm_kit.files import fingerprint, pretty_json, sha256_file

QUICK = ab.Rule(contexts=200, input_len=16, output_len=8, blocks=1, block_s=0.1, minutes=0.02)
"""Time for one round: quality decides, and of speed only what is said without a proof."""


@dataclass
class Standing:
    """A mock server that runs all the time."""

    name: str
    endpoint: Endpoint | None
    alive: bool = True
    stops: int = 0

    def start(self) -> float:
        return 1.0

    def stop(self) -> None:
        self.stops += 1

    def explain(self, happened: str) -> str:
        return happened


@pytest.fixture
def rounds(start_mock: Callable[..., Any], tmp_path: Path) -> Callable[..., Rounds]:
    """`rounds("--itl-ms", "9")`: of such a mock against one of 3 ms a token."""

    def make(*options: str, at_once: bool = True) -> Rounds:
        words = Lengths(kind="", first=8)
        return Rounds(
            candidate=Standing("candidate", start_mock("--ttft-ms", "5", *options).endpoint("engine-grpc")),
            incumbent=Standing("incumbent", start_mock("--ttft-ms", "5", "--itl-ms", "3").endpoint("engine-grpc")),
            load=Load(
                Synthetic(input_len=words, output_len=words),
                concurrency=2,
                stream=True,
                seed=7,
                scratch=tmp_path / "load",
            ),
            requests=4,
            blocks=1,
            at_once=at_once,
        )

    return make


@pytest.mark.parametrize("at_once", [True, False])
def test_a_server_of_three_times_the_time_per_token_is_kept_out(
    rounds: Callable[..., Rounds], tmp_path: Path, at_once: bool
) -> None:
    found = contest(rounds("--itl-ms", "15", at_once=at_once), ab.Rule(minutes=2.0), None, Silent())
    assert found.decision == "keep"
    assert any(reason.startswith("TPOT is ") and "the limit is +5.0%" in reason for reason in found.reasons)
    (tpot,) = (figure for figure in found.figures if figure.metric == "tpot_ms")
    assert tpot.change is not None and 2 < tpot.change < 10 and tpot.status == "worse"
    assert not (tmp_path / "load").exists()


def test_when_time_is_up_it_says_what_would_tell(rounds: Callable[..., Rounds]) -> None:
    found = contest(rounds("--itl-ms", "3"), ab.Rule(minutes=0.001), 2.0, Silent())
    assert found.decision == "undecided" and len(found.figures) == 5
    assert all("about 9 more rounds would tell, promotion.minutes" in reason for reason in found.reasons)


def test_a_side_that_refuses_requests_drops_out_by_its_name(rounds: Callable[..., Rounds]) -> None:
    match = rounds("--refuse-rate", "1")
    with pytest.raises(LostError, match=r"the candidate: 2 of 2 requests ended 'refused'") as lost:
        contest(match, ab.Rule(), None, Silent())
    assert lost.value.side is match.candidate
    assert match.candidate.stops == match.incumbent.stops == 1  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Bench:
    """Compares artifacts on this machine."""

    artifact: Path
    store: Store
    work: Path

    def compare(self, candidate: Path, incumbent: Path | None, **rule: Any) -> ab.Comparison:
        found = ab.compare(
            candidate,
            incumbent,
            rule=QUICK.model_copy(update=rule),
            store=self.store,
            candidate_checkpoint=None,
            incumbent_checkpoint=None,
            work=self.work,
            talk=Silent(),
        )
        assert list(self.work.iterdir()) == [] and not self.store.deployments.exists()
        pretty_json([vars(figure) for figure in found.figures])  # refuses what is no JSON
        return found

    def damaged(self, name: str, change: Callable[[bytearray], bytearray]) -> Path:
        """A copy with one file of the engine changed, and a manifest that says so."""
        copy = Path(shutil.copytree(self.artifact, self.work.with_name("damaged")))
        file = copy / "engine" / name
        content = change(bytearray(file.read_bytes()))
        file.unlink()
        file.write_bytes(content)
        manifest = {**manifests.load(copy), "digest": None, "validations": None}
        body = {key: value for key, value in manifest.items() if value is not None}
        body["files"] = {**body["files"], f"engine/{name}": sha256_file(file)}
        (copy / "manifest.json").write_text(pretty_json({**body, "digest": fingerprint(body)}))
        manifests.verify(copy)
        return copy


@pytest.fixture
def bench(triton_installed: None, built: Any, tmp_path: Path) -> Bench:
    store = Store(built.store)
    (artifact,) = (store.artifact_folder(digest) for digest in store.artifacts())
    return Bench(artifact=artifact, store=Store(tmp_path / "store"), work=tmp_path / "work")


def test_the_first_build_is_promoted_with_its_figures(bench: Bench) -> None:
    found = bench.compare(bench.artifact, None, usd_per_hour=1.0)
    assert found.decision == "promote" and found.reasons[0] == "the first build of its cell"
    assert {figure.metric for figure in found.figures} == {
        "ttft_ms",
        "tpot_ms",
        "output_tokens_per_s",
        "cold_start_s",
        "usd_per_million_tokens",
    }
    assert all(figure.candidate > 0 and figure.incumbent is None for figure in found.figures)


@pytest.mark.parametrize("side_by_side", ["auto", False])
def test_an_identical_build_answers_the_same_and_is_not_kept_out(bench: Bench, side_by_side: Any) -> None:
    found = bench.compare(bench.artifact, bench.artifact, side_by_side=side_by_side)
    figures = {figure.metric: figure for figure in found.figures}
    assert found.decision == "undecided" and figures["accuracy"].status == "good"
    assert figures["agreement"].candidate > 0.98 and figures["accuracy"].candidate > 0.1
    assert figures["cold_start_s"].incumbent is not None


def test_an_engine_with_other_bytes_is_kept_out_by_what_it_answers(bench: Bench) -> None:
    def flip(content: bytearray) -> bytearray:
        """A bit of the exponents of some weights in the middle."""
        middle = len(content) // 4 * 2
        for at in range(middle + 1, middle + (1 << 16), 2):
            content[at] ^= 0x40
        return content

    found = bench.compare(bench.damaged("openvino_model.bin", flip), bench.artifact)
    assert found.decision == "keep" and found.reasons[0].startswith("accuracy is ")
    assert {figure.metric for figure in found.figures} == {"accuracy", "agreement"}  # its speed was not measured


def test_a_candidate_that_does_not_start_is_kept_out_with_its_log(bench: Bench) -> None:
    broken = bench.damaged("openvino_model.xml", lambda content: content[: len(content) // 2])
    found = bench.compare(broken, bench.artifact)
    assert found.decision == "keep" and found.reasons[0].startswith("the candidate: tritonserver")
    assert "openvino_model.xml" in found.reasons[0] or "engine" in found.reasons[0]


@pytest.mark.parametrize("policy", ["undecided", "promote"])
def test_an_incumbent_that_does_not_start_is_a_matter_of_policy(bench: Bench, policy: str) -> None:
    broken = bench.damaged("openvino_model.xml", lambda content: content[: len(content) // 2])
    found = bench.compare(bench.artifact, broken, lost_incumbent=policy)
    assert found.decision == policy and found.reasons[0].startswith("the incumbent: ")


def test_what_this_machine_cannot_serve_is_said_in_a_line(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = manifests.load(bench.artifact)
    assert ab.unmeasurable(manifest) is None
    foreign = {**manifest, "runtime": "tensorrt", "target": {**manifest["target"], "sku": "h100_sxm"}}
    reason = ab.unmeasurable(foreign)
    assert (
        reason is not None and reason.startswith("no h100_sxm here: runtime: built for tensorrt") and "\n" not in reason
    )

    def no_server() -> None:
        raise HostError("no tritonserver here")

    monkeypatch.setattr("serving.nightly.ab.place.this_machine", lambda manifest: no_server())
    assert ab.unmeasurable(manifest) == "no tritonserver here"
