"""What upstream changed, asked of real servers on this machine that answer as the hub and as a registry do."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from builder.depot import Depot
from builder.hub import current_commit
from serving.nightly.image_digest import image_digest
from serving.nightly.spec import load
from serving.nightly.watch import upstream
from trtllm_kit.errors import HostError

OLD, NEW = "0" * 40, "1" * 40
DIGEST = "sha256:" + "d" * 64
REFUSED = {
    "gated": (403, "GatedRepo", "is gated"),
    "gone": (404, "RepoNotFound", "was not found"),
    "moved": (404, "RevisionNotFound", "has no such revision"),
}


class Upstream(BaseHTTPRequestHandler):
    """`/api/models/<id>/revision/<revision>` of the hub; `/v2/<name>/manifests/<tag>` and a token of a registry."""

    commits: dict[str, str]

    def do_GET(self) -> None:
        if self.path.startswith("/token"):
            assert "scope=repository%3Aacme%2Ftriton%3Apull" in self.path
            return self._answer(200, {"token": "anonymous"})
        name = self.path.split("/")[4]
        if self.headers.get("Authorization") == "Bearer hf_expired":
            return self._answer(401, {}, **{"X-Error-Message": "Invalid credentials in Authorization header"})
        if name in REFUSED:
            status, code, _ = REFUSED[name]
            return self._answer(status, {}, **{"X-Error-Code": code})
        return self._answer(200, {"id": f"acme/{name}", "sha": self.commits[self.path]})

    def do_HEAD(self) -> None:
        if self.headers.get("Authorization") != "Bearer anonymous":
            realm = f"http://127.0.0.1:{self.server.server_port}/token"  # type: ignore[attr-defined]
            challenge = f'Bearer realm="{realm}",service="registry",scope="repository:acme/triton:pull"'
            return self._answer(401, {}, **{"WWW-Authenticate": challenge})
        if not self.path.endswith("/v2/acme/triton/manifests/26.07"):
            return self._answer(404, {})
        assert "application/vnd.oci.image.index.v1+json" in self.headers["Accept"]
        return self._answer(200, {}, **{"Docker-Content-Digest": DIGEST})

    def _answer(self, status: int, tree: Any, **headers: str) -> None:
        body = json.dumps(tree).encode() if self.command == "GET" else b""
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    handler = type("Handler", (Upstream,), {"commits": {}})
    found = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    found.shutdown()
    thread.join()
    found.server_close()


def online(server: ThreadingHTTPServer, **more: str) -> dict[str, str]:
    """The hub is the server, everything else is out of reach."""
    nowhere = {"HTTPS_PROXY": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1"}
    return {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HUB_OFFLINE": "0", **nowhere, **more}


def matrix(kit: Any, *models: str, sku: str = "h100_sxm") -> None:
    axes = {"model": list(models), "sku": [sku]}
    kit.folder.joinpath("nightly.yaml").write_text(json.dumps({"depot": "depot", "matrix": axes}))


def test_a_branch_that_moved_is_a_change(kit: Any, server: Any, nights: Any) -> None:
    matrix(kit, "acme/llama@main", "acme/qwen")
    depot = Depot.open(str(kit.folder / "depot"))
    name = nights.write(depot, 0, upstream={"model acme/llama@main": OLD, "model acme/qwen": OLD, "trtllm": "1.2.1"})
    server.RequestHandlerClass.commits = {
        "/api/models/acme/llama/revision/main": OLD,
        "/api/models/acme/qwen": OLD,
    }
    same = kit.run("nightly", "watch", **online(server))
    assert same.code == 4  # of the image nothing was heard
    assert "registry nvcr.io cannot be asked" in same.err
    assert "changed" not in same.out
    matrix(kit, "acme/llama@main", "acme/qwen", sku="cpu")
    assert kit.run("nightly", "watch", **online(server)).code == 0  # no image serves these
    server.RequestHandlerClass.commits["/api/models/acme/qwen"] = NEW
    moved = kit.run("nightly", "watch", "--output", "json", **online(server))
    assert moved.code == 10
    assert moved.json["changes"] == [{"what": "model acme/qwen", "before": OLD, "now": NEW}]
    assert moved.json["since"] == name


def test_what_the_hub_refuses_is_named_and_the_rest_is_still_asked(kit: Any, server: Any, nights: Any) -> None:
    matrix(kit, *(f"acme/{name}" for name in REFUSED), "acme/llama", "./nowhere")
    nights.write(Depot.open(str(kit.folder / "depot")), 0, upstream={"model acme/llama": OLD})
    server.RequestHandlerClass.commits = {"/api/models/acme/llama": OLD}
    outcome = kit.run("nightly", "watch", "--output", "json", **online(server))
    assert outcome.code == 4
    for name, (_, _, words) in REFUSED.items():
        assert words in outcome.json["unanswered"][f"model acme/{name}"]
    assert any("there is no folder" in reason for reason in outcome.json["unanswered"].values())
    assert outcome.json["now"]["model acme/llama"] == OLD


def test_a_folder_is_known_by_its_files(kit: Any, model_copy: Path, nights: Any) -> None:
    matrix(kit, str(model_copy))
    depot = Depot.open(str(kit.folder / "depot"))
    first = kit.run("nightly", "watch", "--output", "json")
    assert first.code == 10  # there was no night yet
    nights.write(depot, 0, upstream=first.json["now"])
    shutil.copystat(model_copy / "config.json", model_copy / "generation_config.json")
    assert kit.run("nightly", "watch", "--output", "json").json["changes"] == []
    config = json.loads((model_copy / "config.json").read_text())
    (model_copy / "config.json").write_text(json.dumps({**config, "rope_theta": 20000.0}))
    assert kit.run("nightly", "watch").code == 10


def test_an_expired_token_is_named(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    with pytest.raises(HostError, match="401") as refused:
        current_commit("acme/llama")
    assert "token" in refused.value.expected
    assert "hf_expired" not in str(refused.value)


def test_a_commit_asks_nobody() -> None:
    assert current_commit(f"acme/llama@{NEW}") == NEW


def test_a_registry_tells_the_digest_to_who_fetches_a_token(server: Any) -> None:
    assert image_digest(f"127.0.0.1:{server.server_port}/acme/triton:26.07") == DIGEST
    with pytest.raises(HostError, match=r"cannot be asked for .*Not Found"):
        image_digest(f"127.0.0.1:{server.server_port}/acme/triton:25.01")
    with pytest.raises(HostError, match=r"127\.0\.0\.1:9 cannot be asked"):
        image_digest("127.0.0.1:9/acme/triton:26.07")


def test_a_night_without_network_writes_down_what_is_pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path = tmp_path / "nightly.yaml"
    path.write_text("base: {model: acme/llama}\nmatrix: {trtllm_version: [1.2.1, 1.1.0]}\n")
    found = upstream(load(path))
    assert found["trtllm"] == "1.1.0, 1.2.1"
    assert found["trtllm-kit"]
    assert not any(name.startswith("image ") for name in found)
