"""https and gRPC over TLS through the front door, before a mock whose certificate is made here."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SMALL = ("--check", "throughput", "--requests-per-level", "4", "--concurrency", "2", "--output-len", "6")
TRANSPORTS = ("engine-http", "openai-chat", "engine-grpc")

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate with")


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """One that signs itself, for an address; its key beside it."""
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-days", "2", "-subj", "/CN=mock", "-addext", f"subjectAltName={name}"]
    subprocess.run([*command, *names, "-out", cert, "-keyout", key], check=True, capture_output=True)
    return cert, key


class Relay:
    """Speaks TLS before plain servers, in an event loop on a thread of its own."""

    def __init__(self, cert: Path, key: Path) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(cert, key)
        self._context.set_alpn_protocols(["h2", "http/1.1"])
        self._servers: list[asyncio.Server] = []
        ready = threading.Event()
        self._thread = threading.Thread(target=asyncio.run, args=(self._live(ready),))
        self._thread.start()
        assert ready.wait(10)

    def before(self, address: str) -> str:
        """An address of its own that leads to a plain one."""
        return asyncio.run_coroutine_threadsafe(self._open(address), self._loop).result(10)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(10)

    async def _live(self, ready: threading.Event) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        ready.set()
        await self._over.wait()
        for server in self._servers:
            server.close()

    async def _open(self, address: str) -> str:
        host, _, port = address.rpartition(":")

        async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there = await asyncio.open_connection(host, int(port))
            await asyncio.gather(pump(reader, there[1]), pump(there[0], writer), return_exceptions=True)

        server = await asyncio.start_server(meet, host, 0, ssl=self._context)
        self._servers.append(server)
        return f"{host}:{server.sockets[0].getsockname()[1]}"


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


@pytest.fixture
def secured(start_mock, tmp_path: Path) -> Iterator[Callable[..., tuple[Path, tuple[str, ...]]]]:
    """`secured(name="IP:127.0.0.1")`: a certificate for that name, and the options that point `validate` behind it."""
    relays: list[Relay] = []

    def options(name: str = "IP:127.0.0.1") -> tuple[Path, tuple[str, ...]]:
        cert, key = certificate(tmp_path, name)
        mock, relay = start_mock("--ttft-ms", "5", "--itl-ms", "1"), Relay(cert, key)
        relays.append(relay)
        return cert, ("--url", f"https://{relay.before(mock.http)}", "--grpc", relay.before(str(mock.grpc)), *SMALL)

    yield options
    for relay in relays:
        relay.close()


def test_a_known_authority_is_believed(kit, secured) -> None:
    cert, options = secured()
    for transport in TRANSPORTS:
        outcome = kit.ok("validate", *options, "--transport", transport, "--ca-file", str(cert), "--output", "json")
        (level,) = next(check for check in outcome.json["checks"] if check["name"] == "throughput")["data"]["levels"]
        assert (level["completed"], level["output_tokens"], level["errors"]) == (4, 24, {})
        assert outcome.json["endpoint"]["trust"] == {"ca_file": str(cert), "verify": True}


def test_an_unknown_certificate_is_refused_before_anything_is_asked(kit, secured) -> None:
    _, options = secured()
    for transport in TRANSPORTS:
        outcome = kit.run("validate", *options, "--transport", transport)
        assert outcome.code == 4
        assert "its certificate is not trusted: self-signed certificate" in outcome.err
        assert "--ca-file" in outcome.err and "--insecure" in outcome.err and "Traceback" not in outcome.err


def test_a_certificate_for_another_name_is_only_for_whoever_believes_anybody(kit, secured) -> None:
    cert, options = secured("DNS:elsewhere.example")
    for transport in TRANSPORTS:
        outcome = kit.run("validate", *options, "--transport", transport, "--ca-file", str(cert))
        assert outcome.code == 4 and "not trusted: IP address mismatch" in outcome.err
        kit.ok("validate", *options, "--transport", transport, "--insecure")


def test_a_plain_server_asked_over_tls_is_a_clear_error(kit, start_mock) -> None:
    mock = start_mock()
    outcome = kit.run("validate", "--url", f"https://{mock.http}", "--transport", "engine-http", *SMALL)
    assert outcome.code == 4 and "WRONG_VERSION_NUMBER" in outcome.err and "Traceback" not in outcome.err


def test_what_cannot_be_a_certificate_is_a_usage_error(kit) -> None:
    (kit.folder / "ca.pem").write_text("no certificate\n")
    url = ("validate", "--url", "https://127.0.0.1:1", "--transport", "engine-http")
    for file in ("ca.pem", "missing.pem"):
        outcome = kit.run(*url, "--ca-file", file)
        assert outcome.code == 2 and file in outcome.err and "PEM" in outcome.err
    plain = kit.run("validate", "--url", "http://127.0.0.1:1", "--insecure")
    assert plain.code == 2 and "https://" in plain.err
