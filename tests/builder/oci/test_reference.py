"""Places in a registry."""

from __future__ import annotations

import pytest

from builder.oci.reference import Reference
from trtllm_kit.errors import UsageError

DIGEST = f"sha256:{'0' * 64}"


@pytest.mark.parametrize(
    ("text", "host", "repository", "tag", "digest"),
    [
        ("oci://127.0.0.1:5000/llama:v1", "127.0.0.1:5000", "llama", "v1", None),
        ("oci://ghcr.io/team/a__b.c-d:V_1.0-x", "ghcr.io", "team/a__b.c-d", "V_1.0-x", None),
        (f"oci://[::1]:5000/a/b/c@{DIGEST}", "[::1]:5000", "a/b/c", None, DIGEST),
        (f"oci://localhost/a:b@{DIGEST}", "localhost", "a", "b", DIGEST),
    ],
)
def test_a_place_is_parsed_and_written_back(
    text: str, host: str, repository: str, tag: str | None, digest: str | None
) -> None:
    place = Reference.parse(text)
    assert place == Reference(host=host, repository=repository, tag=tag, digest=digest)
    assert str(place) == text
    assert place.name == (digest or tag)


@pytest.mark.parametrize(
    "text",
    [
        "oci://host/name",  # which one?
        "oci://host:5000",
        "oci://host/Name:v1",
        "oci://host/a//b:v1",
        "oci://host/../b:v1",
        "oci://user:password@host/b:v1",
        "oci://host/b:v1@sha256:abc",
        "oci://host/b:" + "x" * 129,
        "oci://host/b:v1\n",
        "https://host/b:v1",
    ],
)
def test_what_is_no_place_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no place in a registry"):
        Reference.parse(text)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1:5000", True),
        ("127.8.8.8", True),
        ("localhost:5000", True),
        ("[::1]:5000", True),
        ("127.0.0.1.example.org", False),
        ("localhost.example.org:80", False),
        ("10.0.0.1:5000", False),
        ("[fe80::1]:80", False),
    ],
)
def test_loopback_is_told_by_the_whole_name(host: str, loopback: bool) -> None:
    assert Reference.parse(f"oci://{host}/a:b").is_loopback == loopback
