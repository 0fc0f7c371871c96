"""A registry that speaks the OCI distribution specification over HTTP, with the doors and the faults of real ones."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

USER = base64.b64encode(b"ci:pass word").decode()


@dataclass
class Hub:
    """What the registry holds, how it lets in, and what it was asked."""

    host: str = ""
    blobs: dict[str, bytes] = field(default_factory=dict)  # "sha256:..." -> content
    manifests: dict[str, bytes] = field(default_factory=dict)  # tag or digest -> content
    door: str = "open"  # "basic": user and password; "token": bearer tokens for a scope, good for `token_uses` requests
    token_uses: int = 1000
    tokens: dict[str, list[object]] = field(default_factory=dict)  # token -> [scope, uses left]
    asked: list[tuple[str, str]] = field(default_factory=list)  # method, path
    failures: list[int] = field(default_factory=list)  # statuses of the next answers
    uploads_at: str = ""  # host to which uploads are sent on
    cut_at: int | None = None  # blobs end after so many bytes, or wait there
    waits: threading.Event | None = None  # set by the registry when it waits

    def sent(self) -> list[str]:
        """Digests of the blobs that were sent to it."""
        return [
            path.partition("digest=")[2].replace("%3A", ":")
            for how, path in self.asked
            if how == "PUT" and "digest=" in path
        ]


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None: ...

        def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def refuse(self, status: int, message: str, **headers: str) -> None:
            self.answer(status, json.dumps({"errors": [{"code": "X", "message": message}]}).encode(), **headers)

        def handle_any(self) -> None:
            hub.asked.append((self.command, self.path))
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if hub.failures:
                return self.refuse(hub.failures.pop(0), "a moment, please")
            if self.path.startswith("/token"):
                return self.give_token()
            if not self.may_enter():
                return None
            for pattern, act in routes.items():
                if match := re.fullmatch(pattern, self.path.partition("?")[0]):
                    return act(self, body, *match.groups())
            return self.refuse(404, "no such page")

        do_GET = do_HEAD = do_PUT = do_POST = handle_any  # noqa: N815 (the server's names)

        def may_enter(self) -> bool:
            given = self.headers.get("Authorization", "")
            scope = "pull" if self.command in ("GET", "HEAD") else "pull,push"
            if hub.door == "basic" and given != f"Basic {USER}":
                self.refuse(401, "who are you?", WWW_Authenticate='Basic realm="Registry Realm"')
                return False
            token = hub.tokens.get(given.removeprefix("Bearer "))
            if hub.door == "token" and not (token and scope in str(token[0]) and int(str(token[1])) > 0):
                place = f'Bearer realm="http://{hub.host}/token",service="here",scope="repository:team/llama:{scope}"'
                self.refuse(401, "a token, please", WWW_Authenticate=place)
                return False
            if token:
                token[1] = int(str(token[1])) - 1
            return True

        def give_token(self) -> None:
            if self.headers.get("Authorization") != f"Basic {USER}":
                return self.refuse(401, "who are you?")
            token, scope = uuid.uuid4().hex, parse_qs(urlsplit(self.path).query)["scope"][0]
            hub.tokens[token] = [scope, hub.token_uses]
            return self.answer(200, json.dumps({"token": token}).encode())

        def hello(self, _body: bytes) -> None:
            self.answer(200, b"{}")

        def start_upload(self, _body: bytes, name: str) -> None:
            self.answer(
                202,
                Location=f"{hub.uploads_at and f'http://{hub.uploads_at}'}/v2/{name}/blobs/uploads/{uuid.uuid4().hex}?state=x",
            )

        def take_upload(self, body: bytes, _name: str, _upload: str) -> None:
            digest = parse_qs(urlsplit(self.path).query)["digest"][0]
            if f"sha256:{hashlib.sha256(body).hexdigest()}" != digest:
                return self.refuse(400, "provided digest did not match uploaded content")
            hub.blobs[digest] = body
            return self.answer(201)

        def give_blob(self, _body: bytes, _name: str, digest: str) -> None:
            if digest not in hub.blobs:
                return self.refuse(404, "blob unknown")
            if hub.cut_at is None or self.command == "HEAD":
                return self.answer(200, hub.blobs[digest])
            self.send_response(200)
            self.send_header("Content-Length", str(len(hub.blobs[digest])))
            self.end_headers()
            self.wfile.write(hub.blobs[digest][: hub.cut_at])
            self.wfile.flush()
            self.close_connection = True
            if hub.waits:
                hub.waits.set()
                time.sleep(60)
            return None

        def manifest(self, body: bytes, _name: str, place: str) -> None:
            if self.command == "PUT":
                hub.manifests[place] = hub.manifests[f"sha256:{hashlib.sha256(body).hexdigest()}"] = body
                return self.answer(201)
            if place not in hub.manifests:
                return self.refuse(404, "manifest unknown")
            return self.answer(200, hub.manifests[place], Content_Type="application/vnd.oci.image.manifest.v1+json")

    routes = {
        r"/v2/": Handler.hello,
        r"/v2/(.+)/blobs/uploads/": Handler.start_upload,
        r"/v2/(.+)/blobs/uploads/(\w+)": Handler.take_upload,
        r"/v2/(.+)/blobs/(sha256:\w+)": Handler.give_blob,
        r"/v2/(.+)/manifests/([\w.:-]+)": Handler.manifest,
    }
    return Handler


@pytest.fixture
def hub() -> Iterator[Hub]:
    """The registry of this test, on a free port of 127.0.0.1."""
    hub = Hub()
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub)) as server:
        server.daemon_threads, server.block_on_close = True, False
        hub.host = f"127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield hub
        server.shutdown()
        thread.join()


@pytest.fixture(params=["in process", "docker-registry"])
def registry_host(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Our registry, and Debian's where it is installed."""
    if request.param == "in process":
        yield request.getfixturevalue("hub").host
        return
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("docker-registry is not on PATH")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{probe.getsockname()[1]}"
    config = tmp_path / "registry.yml"
    storage = {"filesystem": {"rootdirectory": str(tmp_path / "registry")}}
    config.write_text(json.dumps({"version": 0.1, "storage": storage, "http": {"addr": host}}))
    with subprocess.Popen([program, "serve", str(config)], stderr=subprocess.DEVNULL) as process:
        _wait_for(f"http://{host}/v2/")
        yield host
        process.terminate()


def _wait_for(url: str) -> None:
    for _ in range(100):
        try:
            urllib.request.urlopen(url, timeout=1).close()
        except urllib.error.URLError:
            time.sleep(0.05)
        else:
            return
    raise TimeoutError(url)
