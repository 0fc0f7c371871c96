"""The three ports of a server: free ones, or the given ones with a clear word when one is taken."""

from __future__ import annotations

import contextlib
import errno
import socket
from dataclasses import asdict, dataclass

from trtllm_kit.errors import HostError

LOOPBACK = "127.0.0.1"
_TRIES = 50


@dataclass(frozen=True, kw_only=True)
class Ports:
    """TCP ports of one tritonserver."""

    http: int
    grpc: int
    metrics: int

    def rows(self) -> tuple[tuple[str, int], ...]:
        """(service, port), in Triton's usual order."""
        return tuple(asdict(self).items())


def choose_ports(*, http: int | None = None, grpc: int | None = None, metrics: int | None = None) -> Ports:
    """The given ports, checked, and free ones for the rest; HostError names a port that is taken or impossible."""
    given = {"http": http, "grpc": grpc, "metrics": metrics}
    named = [port for port in given.values() if port is not None]
    if len(named) != len(set(named)):
        raise HostError(f"one port is given twice: {sorted(named)}", expected="three different ports")
    with contextlib.ExitStack() as held:
        if not named:
            return _neighbours(held)
        # All are held open until each is known, so that two services never get the same free port.
        chosen = {name: _bind(name, port, held) for name, port in given.items()}
    return Ports(**chosen)


def _neighbours(held: contextlib.ExitStack) -> Ports:
    """Three free ports in a row, like Triton's own 8000 to 8002: who knows one address then knows all three."""
    for _ in range(_TRIES):
        http = _bind("http", None, held)
        with contextlib.suppress(HostError):
            return Ports(http=http, grpc=_bind("grpc", http + 1, held), metrics=_bind("metrics", http + 2, held))
    raise HostError("no three free ports in a row were found", fix="give --http-port, --grpc-port and --metrics-port")


def _bind(name: str, port: int | None, held: contextlib.ExitStack) -> int:
    if port is not None and not 0 < port < 65536:
        raise HostError(f"{port} is no {name} port", expected="a number from 1 to 65535")
    sock = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    # Triton sets SO_REUSEADDR on its listeners, so a port in TIME_WAIT is free for it and must be free here.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((LOOPBACK, port or 0))
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, error.strerror)
        raise HostError(
            f"the {name} port {port} {reason}",
            expected="a free port on this machine",
            fix=f"choose another with --{name}-port, or leave it out to get a free one",
        ) from None
    return int(sock.getsockname()[1])


_REASONS = {errno.EADDRINUSE: "is in use", errno.EACCES: "is not allowed for this user"}
