"""An artifact to a registry and back: the same bytes or none, nothing sent twice, no secret told."""

from __future__ import annotations

import json
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import oras.provider
import pytest

from builder import manifest
from builder.attest import keys, signing
from builder.oci import image
from builder.oci.pull import pull
from builder.oci.push import Pushed, push
from builder.oci.reference import Reference
from builder.store import Store
from trtllm_kit.console import Silent
from trtllm_kit.errors import HostError, IntegrityError, KitError, SpecError, UsageError

MakeArtifact = Callable[..., Path]


def _push(artifact: Path, host: str, place: str = "team/llama:v1") -> Pushed:
    return push(artifact, Reference.parse(f"oci://{host}/{place}"), insecure=True, talk=Silent())


def _pull(host: str, store: Path, place: str = "team/llama:v1") -> Path:
    return pull(Reference.parse(f"oci://{host}/{place}"), Store(store), insecure=True, talk=Silent())


def _tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(autouse=True)
def no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whoever runs the tests may be logged in somewhere."""
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker" / "config.json").write_text("{}")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setenv("HOME", str(tmp_path))
    yield


def _log_in(tmp_path: Path, host: str, user: str) -> None:
    (tmp_path / "docker" / "config.json").write_text(json.dumps({"auths": {host: {"auth": user}}}))


def test_there_and_back(registry_host: str, make_artifact: MakeArtifact, kit: Any, tmp_path: Path) -> None:
    artifact, place = make_artifact(), f"oci://{registry_host}/team/llama:v1"
    pushed = kit.ok("artifact", "push", str(artifact), place, "--insecure", "--output", "json").json
    assert pushed["sent_bytes"] == pushed["total_bytes"] > 0
    found = kit.ok("artifact", "pull", place, "--insecure", "--output", "json").json
    assert _tree(Path(found["folder"])) == _tree(artifact)
    assert found["artifact"] in kit.ok("artifact", "verify", found["identifier"], "--output", "json").out
    again = _push(artifact, registry_host, "team/llama:v2")
    assert (again.sent_bytes, str(again.place)) == (0, pushed["place"])
    by_digest = pull(again.place, Store(tmp_path / "other"), insecure=True, talk=Silent())
    assert _tree(by_digest) == _tree(artifact)


def test_other_clients_read_it_as_an_image(registry_host: str, make_artifact: MakeArtifact, tmp_path: Path) -> None:
    artifact = make_artifact(target__sku="gh200_96gb")
    pushed = _push(artifact, registry_host)
    client = oras.provider.Registry(registry_host, insecure=True)
    container = client.get_container(str(pushed.place).removeprefix("oci://"))
    tree = client.get_manifest(container)
    config = json.loads(client.get_blob(container, tree["config"]["digest"]).content)
    assert tree["annotations"]["trtllm-kit.artifact"] == manifest.load(artifact)["digest"]
    assert config["architecture"] == "arm64"
    assert config["rootfs"]["diff_ids"] == [layer["digest"] for layer in tree["layers"]]
    for layer in tree["layers"]:
        blob = Path(client.download_blob(container, layer["digest"], str(tmp_path / "blob")))
        assert blob.stat().st_size == layer["size"]
        shutil.unpack_archive(blob, tmp_path / "mounted", "tar")
    assert _tree(tmp_path / "mounted") == _tree(artifact)


def test_only_what_changed_is_sent(hub: Any, make_artifact: MakeArtifact, tmp_path: Path) -> None:
    artifact = make_artifact()
    first = _push(artifact, hub.host)
    manifest.append_validation(artifact, {"sku": "cpu", "status": "pass"})
    hub.asked.clear()
    second = _push(artifact, hub.host, "team/llama:v2")
    *same, last = json.loads(hub.manifests["v2"])["layers"]
    assert [row["digest"] for row in same] == [row["digest"] for row in json.loads(hub.manifests["v1"])["layers"][:-1]]
    assert hub.sent() == [last["digest"], json.loads(hub.manifests["v2"])["config"]["digest"]]
    assert second.place != first.place
    elsewhere = Path(shutil.copytree(artifact, tmp_path / "elsewhere", copy_function=shutil.copyfile))
    assert _push(elsewhere, hub.host).place == second.place


def test_a_signature_made_later_and_elsewhere_is_fetched(hub: Any, make_artifact: MakeArtifact, tmp_path: Path) -> None:
    artifact, key = make_artifact(), tmp_path / "key.pem"
    _push(artifact, hub.host)
    here = _pull(hub.host, tmp_path / "store")
    public = keys.new_pair(key)
    signing.sign(artifact, key)
    _push(artifact, hub.host)
    hub.asked.clear()
    assert _pull(hub.host, tmp_path / "store") == here
    signing.verify(here, public)
    (engine, *_) = json.loads(hub.manifests["v1"])["layers"]
    assert not any(engine["digest"] in path for _, path in hub.asked)


def test_a_damaged_artifact_is_not_sent(hub: Any, make_artifact: MakeArtifact) -> None:
    artifact = make_artifact()
    (artifact / "spec.yaml").write_text("other")
    with pytest.raises(IntegrityError, match=r"spec\.yaml has other bytes"):
        _push(artifact, hub.host)
    assert hub.asked == []


def _other_blob(hub: Any) -> None:
    digest = json.loads(hub.manifests["v1"])["layers"][0]["digest"]
    hub.blobs[digest] = hub.blobs[digest].replace(b"\x07\x08\x09", b"\x07\x00\x09", 1)


def _changed(change: Callable[[dict[str, Any]], object]) -> Callable[[Any], None]:
    def act(hub: Any) -> None:
        tree = json.loads(hub.manifests["v1"])
        change(tree)
        hub.manifests["v1"] = json.dumps(tree).encode()

    return act


LIES: dict[str, tuple[Callable[[Any], object], type[KitError], str]] = {
    "another byte in a layer": (_other_blob, IntegrityError, "not what its digest says"),
    "another artifact": (
        _changed(lambda tree: tree["annotations"].update({image.ARTIFACT_KEY: "0" * 64})),
        IntegrityError,
        "promises the artifact 000000000000",
    ),
    "a layer less": (_changed(lambda tree: tree["layers"].pop(0)), IntegrityError, "rank0.engine is missing"),
    "no last layer": (_changed(lambda tree: tree["layers"].pop()), SpecError, "manifest is missing"),
    "a layer twice": (_changed(lambda tree: tree["layers"].append(tree["layers"][0])), IntegrityError, "there twice"),
    "layers packed anew": (
        _changed(lambda tree: tree["layers"][0].update(mediaType="application/vnd.oci.image.layer.v1.tar+gzip")),
        IntegrityError,
        "packed anew",
    ),
    "an image of something else": (_changed(lambda tree: tree.pop("annotations")), SpecError, "is no artifact"),
    "an index": (_changed(lambda tree: tree.pop("layers")), SpecError, "is no artifact"),
    "a name for a path": (
        _changed(lambda tree: tree["annotations"].update({image.ARTIFACT_KEY: "../../x"})),
        SpecError,
        "is no artifact",
    ),
    "a size below nothing": (_changed(lambda tree: tree["layers"][0].update(size=-1)), SpecError, "is no artifact"),
    "a blob that is gone": (lambda hub: hub.blobs.clear(), SpecError, "blob unknown"),
    "no JSON": (lambda hub: hub.manifests.update(v1=b"<html>"), SpecError, "is no artifact"),
    "more than any disk has": (
        _changed(lambda tree: tree["layers"][0].update(size=10**18)),
        HostError,
        "needs 1000000000.0 GB",
    ),
    "a broken connection": (lambda hub: setattr(hub, "cut_at", 700), HostError, "the connection broke"),
}


@pytest.mark.parametrize("name", LIES)
def test_nothing_is_left_of_what_cannot_be_used(
    hub: Any, make_artifact: MakeArtifact, tmp_path: Path, name: str
) -> None:
    act, kind, words = LIES[name]
    _push(make_artifact(), hub.host)
    act(hub)
    with pytest.raises(kind, match=words):
        _pull(hub.host, tmp_path / "store")
    assert Store(tmp_path / "store").artifacts() == []
    assert not [path for path in (tmp_path / "store").rglob("*") if path.is_file()]


def test_a_registry_cannot_answer_a_digest_with_another_image(
    hub: Any, make_artifact: MakeArtifact, tmp_path: Path
) -> None:
    one = _push(make_artifact(), hub.host)
    other = _push(make_artifact({"engine/a": b"a"}), hub.host)
    hub.manifests[one.place.name] = hub.manifests[other.place.name]
    with pytest.raises(IntegrityError, match="another manifest"):
        pull(one.place, Store(tmp_path / "store"), insecure=True, talk=Silent())


def test_a_pull_that_was_killed_leaves_nothing_that_looks_finished(
    hub: Any, make_artifact: MakeArtifact, kit: Any
) -> None:
    artifact = make_artifact({"engine/a": bytes(3 * 10**6)})
    _push(artifact, hub.host)
    hub.cut_at, hub.waits = 2 * 10**6, threading.Event()
    command = ("artifact", "pull", f"oci://{hub.host}/team/llama:v1", "--insecure")
    with kit.start(*command) as process:
        assert hub.waits.wait(60)
        process.send_signal(signal.SIGKILL)
    assert Store(kit.store).artifacts() == []
    hub.cut_at = None
    kit.ok(*command)
    assert [path.name for path in (kit.store / "artifacts").iterdir()] == [manifest.load(artifact)["digest"]]


@pytest.mark.parametrize("door", ["basic", "token"])
def test_credentials_are_those_of_docker_login(
    hub: Any, make_artifact: MakeArtifact, tmp_path: Path, door: str
) -> None:
    artifact = make_artifact()
    hub.door = door
    _log_in(tmp_path, hub.host, "Y2k6cGFzcyB3b3Jk")  # "ci:pass word"
    _push(artifact, hub.host)
    assert _tree(_pull(hub.host, tmp_path / "store")) == _tree(artifact)


def test_a_token_that_expires_is_renewed(hub: Any, make_artifact: MakeArtifact, tmp_path: Path) -> None:
    artifact = make_artifact()
    hub.door, hub.token_uses = "token", 2
    _log_in(tmp_path, hub.host, "Y2k6cGFzcyB3b3Jk")
    _push(artifact, hub.host)
    assert _tree(_pull(hub.host, tmp_path / "store")) == _tree(artifact)
    assert len(hub.tokens) > 3


@pytest.mark.parametrize("door", ["basic", "token"])
@pytest.mark.parametrize("user", ["", "Y2k6d3Jvbmctc2VjcmV0"])  # "ci:wrong-secret"
def test_who_may_not_enter_is_told_so_without_the_secret(
    hub: Any, make_artifact: MakeArtifact, tmp_path: Path, capfd: pytest.CaptureFixture[str], door: str, user: str
) -> None:
    hub.door = door
    _log_in(tmp_path, hub.host, user)
    with pytest.raises(HostError, match="refuses access to team/llama") as refused:
        _push(make_artifact(), hub.host)
    said = str(refused.value) + "".join(capfd.readouterr())
    assert "docker login" in said
    assert "wrong-secret" not in said
    assert "Y2k6" not in said


def test_credentials_go_nowhere_but_to_the_registry(hub: Any, make_artifact: MakeArtifact, tmp_path: Path) -> None:
    """A registry may let blobs be put elsewhere; that place needs no password."""
    hub.door, hub.uploads_at = "basic", hub.host.replace("127.0.0.1", "localhost")
    _log_in(tmp_path, hub.host, "Y2k6cGFzcyB3b3Jk")
    with pytest.raises(HostError, match="refuses access"):
        _push(make_artifact(), hub.host)
    assert [how for how, _ in hub.asked] == ["GET", "HEAD", "HEAD", "HEAD", "POST", "PUT"]


def test_unreadable_credentials_are_named(hub: Any, make_artifact: MakeArtifact, tmp_path: Path) -> None:
    (tmp_path / "docker" / "config.json").write_text("{")
    with pytest.raises(HostError, match="`docker login` left cannot be read"):
        _push(make_artifact(), hub.host)


def test_a_moments_failure_is_tried_again(hub: Any, make_artifact: MakeArtifact, tmp_path: Path) -> None:
    hub.failures = [503, 429]
    artifact = make_artifact()
    _push(artifact, hub.host)
    assert _tree(_pull(hub.host, tmp_path / "store")) == _tree(artifact)


def test_a_registry_that_fails_is_named(hub: Any, make_artifact: MakeArtifact) -> None:
    hub.failures = [200, 404, 404, 404, 500]  # to the greeting, to whether it has three layers, to the first of them
    with pytest.raises(HostError, match=r"failed with status 500 \(a moment, please\)"):
        _push(make_artifact(), hub.host)


def test_an_address_where_nobody_listens(make_artifact: MakeArtifact) -> None:
    with pytest.raises(HostError, match=r"cannot be reached, or the connection broke: .*refused"):
        _push(make_artifact(), "127.0.0.1:9")


def test_http_leaves_this_machine_never(make_artifact: MakeArtifact) -> None:
    with pytest.raises(UsageError, match="in the clear"):
        _push(make_artifact(), "registry.example:5000")


def test_a_place_by_digest_alone_wins_over_the_tag(hub: Any, make_artifact: MakeArtifact, tmp_path: Path) -> None:
    first = _push(make_artifact(), hub.host)
    _push(make_artifact({"engine/a": b"a"}), hub.host)
    place = replace(first.place, tag="v1")
    found = pull(place, Store(tmp_path / "store"), insecure=True, talk=Silent())
    assert (found / "engine/rank0.engine").exists()
