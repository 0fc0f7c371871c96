"""Clients that go away: one thread looks for them, since a request that waits for tokens cannot look itself."""

import contextlib
import threading

import triton_python_backend_utils as pb_utils

PERIOD_S = 0.1


class Watched:
    """A running request, and whether its client has gone."""

    def __init__(self, request, inner_id):
        self.request = request
        self.inner_id = inner_id
        self.cancelled = False


class CancellationWatch:
    """Calls `stop(inner_id)` once for each watched request whose client cancels."""

    def __init__(self, stop):
        self._stop = stop
        self._lock = threading.Lock()
        self._running = set()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()

    @contextlib.contextmanager
    def watching(self, request, inner_id):
        watched = Watched(request, inner_id)
        with self._lock:
            self._running.add(watched)
        try:
            yield watched
        finally:
            with self._lock:
                self._running.discard(watched)

    def close(self):
        self._closed.set()
        self._thread.join()

    def _loop(self):
        while not self._closed.wait(PERIOD_S):
            with self._lock:
                running = list(self._running)
            for watched in running:
                self._look(watched)

    def _look(self, watched):
        if watched.cancelled or not watched.request.is_cancelled():
            return
        watched.cancelled = True
        try:
            self._stop(watched.inner_id)
        except Exception as error:  # the watch must outlive one refused stop
            pb_utils.Logger.log_warn(f"stop of request {watched.inner_id} was refused: {error}")
