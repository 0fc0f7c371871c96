"""Small artifacts, and depots in every kind of store that can be had on one machine."""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from builder.depot import Depot
from builder.depot.records import CellName, Entry
from trtllm_kit.files import fingerprint


@pytest.fixture(scope="session")
def cell() -> CellName:
    return CellName.parse("m-1b/fp8/l40s/tp1pp1-tensorrt")


@pytest.fixture(scope="session")
def artifact(cell: CellName, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`artifact("content")`: an artifact as `build model` leaves it, but for an engine that runs; a new folder each."""

    def make(content: str, of: CellName = cell) -> Path:
        folder = tmp_path_factory.mktemp("artifact")
        files = {"engine/rank0.engine": content * 100, "spec.yaml": "precision: fp8\n"}
        for name, text in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)
        digests = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in files.items()}
        body = {"format": 1, "identifier": str(of.identifier), "files": digests}
        (folder / "manifest.json").write_text(json.dumps({**body, "digest": fingerprint(body)}))
        return folder

    return make


@pytest.fixture(scope="session")
def entry() -> Callable[..., Entry]:
    """`entry(artifact, upload)`: what a cell's record says of it."""

    def make(folder: Path, upload: str, night: str = "night-1") -> Entry:
        digest = json.loads((folder / "manifest.json").read_text())["digest"]
        return Entry(digest=digest, upload=upload, key="k" * 64, inputs={"compile": {"kit": "1"}}, night=night)

    return make


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of an S3 server on loopback with a bucket called `bucket`."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing", "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=address, **keys).create_bucket(Bucket="bucket")
    yield address
    server.stop()


@pytest.fixture
def s3_environment(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    environment = {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return environment


@pytest.fixture(params=["folder", "memory", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new depot in each kind of store."""
    if request.param == "folder":
        return str(tmp_path / "depot")
    if request.param == "s3":
        request.getfixturevalue("s3_environment")
    return {"memory": "memory://", "s3": "s3://bucket/"}[request.param] + f"depot-{uuid.uuid4().hex}"


@pytest.fixture
def depot(url: str) -> Depot:
    return Depot.open(url)
