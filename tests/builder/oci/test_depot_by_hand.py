"""`artifact push` and `artifact pull` with a depot: what a hand brings is a candidate like any other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from builder import manifest
from builder.depot.depot import Depot
from builder.depot.records import CellName
from trtllm_kit.identifier import BuildIdentifier

MakeArtifact = Callable[..., Path]


def test_a_push_is_the_candidate_of_its_cell_and_can_be_pulled(
    kit: Any, make_artifact: MakeArtifact, tmp_path: Path
) -> None:
    artifact, url = make_artifact(), str(tmp_path / "depot")
    content = manifest.load(artifact)
    cell = CellName.of(BuildIdentifier.parse(content["identifier"]))
    pushed = kit.ok("artifact", "push", str(artifact), url, "--output", "json").json
    assert pushed["place"] == f"{Depot.open(url).url} {cell}/candidate"
    candidate = Depot.open(url).read(cell).record.candidate
    assert candidate is not None
    assert candidate.digest == content["digest"]
    assert kit.run("artifact", "pull", url, str(cell)).code == 3  # nothing is in service
    pulled = kit.ok("artifact", "pull", url, f"{cell}/candidate", "--output", "json").json
    assert pulled["artifact"] == content["digest"]
    assert manifest.verify(Path(pulled["folder"])) == content


def test_of_a_build_the_depot_learns_what_it_was_made_of(built: Any, tmp_path: Path) -> None:
    """So that the next night can say that there is nothing to build."""
    url = str(tmp_path / "depot")
    built.ok("artifact", "push", url)
    (version,) = Depot.open(url).read_all().values()
    candidate = version.record.candidate
    assert candidate is not None
    assert candidate.key
    assert set(candidate.inputs) >= {"quantize", "compile", "render", "package"}


def test_which_artifact_has_to_be_said(kit: Any, tmp_path: Path) -> None:
    assert kit.run("artifact", "pull", str(tmp_path)).code == 2
    assert kit.run("artifact", "pull", "oci://localhost/a:b", "cell").code == 2
    assert kit.run("artifact", "push", "a", "b", str(tmp_path)).code == 2


def test_a_deployment_of_a_pulled_artifact_holds_it_in_the_depot(built: Any, kit: Any, tmp_path: Path) -> None:
    url = str(tmp_path / "depot")
    built.ok("artifact", "push", url)
    (cell,) = Depot.open(url).read_all()
    digest = kit.ok("artifact", "pull", url, f"{cell}/candidate", "--output", "json").json["artifact"]
    name = kit.ok("deploy", "--output", "json").json["name"]
    try:
        (held,) = Depot.open(url).names(f"holds/{digest}")
        assert held.endswith(f"-{name}.json")
    finally:
        kit.run("deploy", "stop", name)
    assert Depot.open(url).names(f"holds/{digest}") == []
