"""A store's refusals in words. Each library beneath fsspec has its own exceptions; what they mean is one table."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from dataclasses import dataclass

from trtllm_kit.errors import HostError, KitError


@dataclass(frozen=True)
class _Refusal:
    labels: frozenset[str]
    happened: str
    expected: str
    fix: str


def _refusal(labels: str, happened: str, expected: str, fix: str) -> _Refusal:
    return _Refusal(frozenset(labels.split()), happened, expected, fix)


_REFUSALS = (
    _refusal(
        "NoCredentialsError PartialCredentialsError CredentialRetrievalError DefaultCredentialsError ProfileNotFound",
        "has got no credentials",
        "credentials as the store's own tools take them",
        "set AWS_PROFILE or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give this machine a role",
    ),
    _refusal(
        "ExpiredToken ExpiredTokenException TokenRefreshRequired InvalidToken InvalidAccessKeyId SignatureDoesNotMatch "
        "RequestTimeTooSkewed TokenRetrievalError UnauthorizedSSOTokenError SSOTokenLoadError RefreshError "
        "ClientAuthenticationError 401",
        "refuses the credentials, or they have expired",
        "credentials that are valid now, and a clock that is right",
        "renew them (e.g. `aws sso login`) and run again: what is done already is kept",
    ),
    _refusal(
        "ENOSPC EDQUOT EFBIG QuotaExceeded InsufficientStorage InsufficientCapacity XMinioStorageFull "
        "XMinioAdminBucketQuotaExceeded XRGWQuotaExceeded 507",
        "is full",
        "room within its quota",
        "free some: `trtllm-kit artifact gc --depot {url}` removes what nothing needs",
    ),
    _refusal(
        "NoSuchBucket ContainerNotFound InvalidBucketName",
        "has no such bucket",
        "a bucket that exists",
        "create it, or correct the URL",
    ),
    _refusal(
        "PermissionError AccessDenied AllAccessDisabled EACCES EPERM EROFS 403",
        "does not allow this",
        "the right to list, read, write and delete there",
        "ask whoever owns it",
    ),
    _refusal(
        "ENOSYS NotImplemented EOPNOTSUPP ENOTSUP 501",
        "cannot do this",
        "hard links in a folder, conditional writes (If-None-Match) in an object store",
        "put the depot elsewhere: without these, two nights could promote over each other",
    ),
    _refusal(
        "ENOTDIR EISDIR EEXIST NotADirectoryError IsADirectoryError",
        "has a file where a folder should be, or the other way round",
        "a folder of its own",
        "choose another folder",
    ),
    _refusal(
        "EndpointConnectionError ConnectTimeoutError ReadTimeoutError ConnectionClosedError ProxyConnectionError "
        "SSLError HTTPClientError ConnectionError ClientConnectorError FSTimeoutError TimeoutError gaierror SlowDown "
        "ServiceUnavailable InternalError ESTALE EREMOTEIO EHOSTDOWN EHOSTUNREACH ENOTCONN ETIMEDOUT",
        "cannot be reached",
        "an answer",
        "check the network, the address and, for a mounted folder, the mount; then run again",
    ),
)
"""By what an exception, or one that it was raised from, is called: its class, its errno, its S3 code or HTTP status.
The first row that knows a label speaks."""

_UNKNOWN = _refusal("OSError BotoCoreError ClientError HttpError", "failed", "a working store", "see the reason above")


@contextlib.contextmanager
def store_errors(url: str) -> Iterator[None]:
    """Turn what a store's library raises into a HostError that names the store; bugs pass through as they are.

    FileNotFoundError passes too, unless it is the bucket that is missing: callers know what an absent object means.
    """
    try:
        yield
    except KitError:
        raise
    except Exception as error:
        labels = labels_of(error)
        refusal = next((row for row in (*_REFUSALS, _UNKNOWN) if row.labels & labels), None)
        if refusal is None or (refusal is _UNKNOWN and isinstance(error, FileNotFoundError)):
            raise
        reason = str(error).strip() or type(error).__name__
        raise HostError(
            f"depot {url} {refusal.happened}: {reason}",
            expected=refusal.expected,
            fix=refusal.fix.format(url=url),
        ) from error


def labels_of(error: BaseException | None) -> frozenset[str]:
    """What an exception is called, and those that it was raised from."""
    labels: set[str] = set()
    while error is not None:
        labels.update(kind.__name__ for kind in type(error).__mro__)
        number = getattr(error, "errno", None)
        if isinstance(number, int):
            labels.add(errno.errorcode.get(number, ""))
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            labels.add(str(response.get("Error", {}).get("Code")))
            labels.add(str(response.get("ResponseMetadata", {}).get("HTTPStatusCode")))
        error = error.__cause__
    return frozenset(labels)
