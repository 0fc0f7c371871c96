"""One repository of an OCI registry over HTTP: https://github.com/opencontainers/distribution-spec, v1.1.

The oras client finds the credentials of `docker login` and `oras login` and fetches tokens. Its transfers are not used:
they read whole layers into memory, and its retry waits for two minutes before it tells that nobody listens.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Protocol
from urllib.parse import urlencode, urljoin, urlsplit

from builder.oci.image import MANIFEST_TYPE, digest_of
from builder.oci.reference import Reference
from trtllm_kit.errors import HostError, IntegrityError, KitError, SpecError, UsageError

_TIMEOUT_S = (10, 300)  # to connect; between two packets
_MANIFEST_LIMIT_BYTES = 4 << 20
"""The size that registries have to accept, by the specification."""


class Body(Protocol):
    """What is sent: of known length, and read from its start whenever it has to be sent again."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Any]: ...


class Registry:
    """A registry that answers, and one repository in it."""

    def __init__(self, place: Reference, *, insecure: bool) -> None:
        """Connect and find out how the registry wants to be asked. HostError when it does not answer."""
        if insecure and not place.is_loopback:
            raise UsageError(
                f"--insecure would send credentials to {place.host} in the clear",
                expected="a registry on this machine (localhost, 127.0.0.1)",
                fix="reach it by https, or through a tunnel that ends on this machine",
            )
        self._place, self._insecure = place, insecure
        self._root = f"{'http' if insecure else 'https'}://{place.host}/v2/"
        self._session, self._auth = _connection(place, insecure=insecure)
        with self._failures():
            challenge = self._session.get(self._root, timeout=_TIMEOUT_S).headers.get("Www-Authenticate", "")
        self._authorization: dict[str, str] = {}
        if challenge.lower().startswith("basic") and hasattr(self._auth, "_basic_auth"):
            self._authorization = {"Authorization": f"Basic {self._auth._basic_auth}"}

    def has_blob(self, digest: str) -> bool:
        """Whether the repository holds a blob."""
        return bool(self._ask("HEAD", f"blobs/{digest}", absent_ok=True).ok)

    def put_blob(self, content: Body, digest: str) -> None:
        """Send a blob in one request, without ever holding it in memory."""
        place = self._ask("POST", "blobs/uploads/").headers["Location"]
        there = urljoin(self._url("blobs/uploads/"), place)
        joined = "&" if urlsplit(there).query else "?"
        headers = {"Content-Type": "application/octet-stream"}
        self._ask("PUT", f"{there}{joined}{urlencode({'digest': digest})}", data=content, headers=headers)

    @contextlib.contextmanager
    def open_blob(self, digest: str) -> Iterator[BinaryIO]:
        """A blob as it comes in; its bytes are not checked here."""
        response = self._ask("GET", f"blobs/{digest}", stream=True)
        with response, self._failures():
            yield response.raw

    def get_manifest(self) -> bytes:
        """The manifest at this place; IntegrityError when it is not the one that the place names by digest."""
        found = self._ask("GET", f"manifests/{self._place.name}", headers={"Accept": MANIFEST_TYPE}, stream=True)
        with found, self._failures():
            content = bytes(found.raw.read(_MANIFEST_LIMIT_BYTES, decode_content=True))
        if self._place.digest and digest_of(content) != self._place.digest:
            raise IntegrityError(
                f"the registry answers with another manifest than {self._place}", expected="the one with this digest"
            )
        return content

    def put_manifest(self, content: bytes) -> None:
        """Publish an image under the place's tag, or digest if it has none."""
        self._ask("PUT", f"manifests/{self._place.name}", data=content, headers={"Content-Type": MANIFEST_TYPE})

    def _url(self, path: str) -> str:
        return f"{self._root}{self._place.repository}/{path}"

    def _ask(self, method: str, path: str, *, absent_ok: bool = False, **content: Any) -> Any:
        """The response to a request, with a new token where the one at hand allows less or has expired."""
        with self._failures():
            response = self._send(method, path, **content)
            if response.status_code == 401 and self._fetch_token(response):
                response = self._send(method, path, **content)
        if response.status_code >= 300 and not (absent_ok and response.status_code == 404):
            raise _refused(self._place, response.status_code, _message(response))
        return response

    def _send(self, method: str, path: str, *, headers: Mapping[str, str] | None = None, **content: Any) -> Any:
        url = path if "://" in path else self._url(path)
        # An upload may go to where the registry says; credentials go to the registry itself.
        trusted = self._authorization if url.startswith(self._root) else {}
        headers = {**(headers or {}), **trusted}
        return self._session.request(method, url, headers=headers, timeout=_TIMEOUT_S, **content)

    def _fetch_token(self, refusal: Any) -> bool:
        challenge = refusal.headers.get("Www-Authenticate", "")
        realm = re.match(r'bearer .*?realm="(https?)://', challenge, re.IGNORECASE)
        if realm is None or (realm[1] == "http" and not self._insecure):
            return False
        self._auth.token = None
        self._authorization, found = self._auth.authenticate_request(refusal, {})
        return bool(found)

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        """Turn what HTTP libraries raise into HostError; their messages hold addresses, never credentials."""
        from requests.exceptions import RequestException
        from urllib3.exceptions import HTTPError

        try:
            yield
        except (RequestException, HTTPError) as error:
            raise _unreachable(self._place, error) from None


def _connection(place: Reference, *, insecure: bool) -> tuple[Any, Any]:
    """A session that tries again what a moment's failure broke, and the oras client's credentials for the registry."""
    try:
        import oras.auth
        import oras.container
        import oras.logger
        import requests
        from requests.adapters import HTTPAdapter
        from urllib3.util import Retry
    except ImportError as error:
        raise HostError(
            f"registries need {error.name}", expected="the extra `oci`", fix="pip install 'trtllm-kit[oci]'"
        ) from None
    oras.logger.setup_logger(quiet=True)
    session = requests.Session()
    again = Retry(3, backoff_factor=0.5, status_forcelist=(429, 502, 503), allowed_methods=None, raise_on_status=False)
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=again))
    auth: Any = oras.auth.get_auth_backend("token", session, insecure)
    folder = os.environ.get("DOCKER_CONFIG")
    configs = [str(Path(folder) / "config.json")] if folder else None
    try:
        auth.load_configs(oras.container.Container(place.repository, registry=place.host), configs=configs)
    except (ValueError, TypeError, AttributeError, KeyError):
        raise HostError(
            "the credentials that `docker login` left cannot be read",
            expected="JSON with `auths`, in ~/.docker/config.json or $DOCKER_CONFIG",
            fix=f"`docker login {place.host}` again",
        ) from None
    return session, auth


def _unreachable(place: Reference, error: Exception) -> HostError:
    # The last of nested causes is the operating system's; those around it name objects of the HTTP library.
    cause = getattr(error.args[0] if error.args else None, "reason", None) or error
    reason = str(cause).rsplit(": ", 1)[-1]
    return HostError(
        f"the registry {place.host} cannot be reached, or the connection broke: {reason}",
        expected="an OCI registry that answers by https",
        fix="check the address; a registry on this machine without TLS needs --insecure",
    )


def _refused(place: Reference, status: int, message: str) -> KitError:
    said = f" ({message})" if message else ""
    if status in (401, 403):
        return HostError(
            f"the registry {place.host} refuses access to {place.repository}{said}",
            expected="credentials that may read, and to push write, this repository",
            fix=f"`docker login {place.host}` or `oras login {place.host}`",
        )
    if status == 404:
        return SpecError(f"the registry has no {place}{said}", expected="an artifact that was pushed there")
    return HostError(f"the registry {place.host} failed with status {status}{said}", expected="a registry with room")


def _message(response: Any) -> str:
    """What the registry says in the specification's form of errors."""
    try:
        return str(response.json()["errors"][0]["message"])[:200]
    except (ValueError, KeyError, IndexError, TypeError):
        return ""
