"""The models of a matrix, each fetched once, at the commit that its branch means tonight."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from builder.checkpoint import Checkpoint
from builder.digests import DigestCache
from builder.fetch import fetch
from trtllm_kit.console import Talk
from trtllm_kit.errors import KitError


@dataclass(kw_only=True)
class Checkpoints:
    """Fetches on demand and remembers the answer, an error too: a model that is gone is asked for once."""

    digests: DigestCache
    talk: Talk
    _known: dict[tuple[str, bool], Checkpoint | KitError] = field(default_factory=dict)

    def get(self, model: str, *, trust_remote_code: bool) -> Checkpoint:
        """The checkpoint, `source` pinned to a commit where it is from the hub. Raises what `fetch` raises."""
        key = (model, trust_remote_code)
        if key not in self._known:
            self._known[key] = self._fetch(model, trust_remote_code)
        found = self._known[key]
        if isinstance(found, KitError):
            raise found
        return found

    def upstream(self) -> dict[str, str]:
        """What every model means at this moment: `model <name>` → commit, or the digest of a folder's files."""
        found = {model: row for (model, _), row in self._known.items() if isinstance(row, Checkpoint)}
        return {f"model {model}": row.revision or row.digest for model, row in found.items()}

    def _fetch(self, model: str, trust_remote_code: bool) -> Checkpoint | KitError:
        try:
            found = fetch(model, trust_remote_code=trust_remote_code, digests=self.digests, talk=self.talk)
        except KitError as error:
            return error
        finally:
            self.digests.save()
        return replace(found, source=pinned(model, found.revision))


def pinned(model: str, commit: str | None) -> str:
    """`org/name@commit`, so that all who build this night build the same; a folder as it is."""
    return f"{model.partition('@')[0]}@{commit}" if commit else model
