"""Where the records of a night lie: in the depot, and in a small one of the local store while that is out of reach."""

from __future__ import annotations

import contextlib
from pathlib import Path

from builder.depot.depot import Depot
from builder.store import Store
from serving.nightly.record import CellResult, NightRecord
from trtllm_kit.errors import KitError
from trtllm_kit.files import pretty_json


def night_path(night: str) -> str:
    return f"nights/{night}/night.json"


def cell_path(night: str, identifier: str) -> str:
    return f"nights/{night}/cells/{identifier}.json"


def log_path(night: str, identifier: str) -> str:
    return f"nights/{night}/logs/{identifier}.log"


class NightFiles:
    """Texts of nights. A depot that fails in the middle costs nothing that was found out: `unsent` has it then."""

    def __init__(self, url: str, store: Store) -> None:
        self._url, self._store = url, store
        self._depot: Depot | None = None
        self.problem: KitError | None = None  # the first; None: all is in the depot

    @property
    def unsent(self) -> Depot:
        """The depot of the local store that takes what the depot could not."""
        return Depot.open(str(self.unsent_folder))

    @property
    def unsent_folder(self) -> Path:
        return self._store.root / "unsent"

    def write(self, path: str, text: str) -> None:
        try:
            self._opened().write_text(path, text)
        except KitError as error:
            self.problem = self.problem or error
            self.unsent.write_text(path, text)

    def send_unsent(self) -> None:
        """Bring to the depot what earlier nights had to leave here; what it cannot take yet stays."""
        for file in sorted(self.unsent_folder.glob("nights/**/*")):
            if file.is_file():
                with contextlib.suppress(KitError):
                    path = file.relative_to(self.unsent_folder).as_posix()
                    self._opened().write_text(path, file.read_text(encoding="utf-8"))
                    file.unlink()

    def write_record(self, path: str, record: NightRecord | CellResult) -> None:
        self.write(path, pretty_json(record.to_json()))

    def read(self, path: str) -> str | None:
        """From the depot, else from what it could not take."""
        try:
            found = self._opened().read_text(path)
        except KitError:
            found = None
        return found or self.unsent.read_text(path)

    def _opened(self) -> Depot:
        self._depot = self._depot or Depot.open(self._url)
        return self._depot
