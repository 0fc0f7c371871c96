"""Snapshots from the Hugging Face hub: safetensors and text only, and from the local cache when there is no network."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from builder.safetensors_index import INDEX_NAME, weight_map
from trtllm_kit.console import Talk
from trtllm_kit.errors import HostError, SpecError

HUB_ID = re.compile(r"(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(?:@(?P<revision>[^@\s]+))?")
_ESSENTIAL = ("config.json", "tokenizer.json", "tokenizer_config.json")
_ANSWER_S = 10
_COMMIT = re.compile(r"[0-9a-f]{40}")
_ALLOW = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model"]
_IGNORE = ["*/*", "consolidated*.safetensors"]  # the same weights again, in the trainer's own layout


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A revision of a repository in the local cache."""

    path: Path
    commit: str


def fetch_snapshot(source: str, talk: Talk) -> Snapshot:
    """Download `org/name[@revision]`, or find it in the cache when the hub cannot be reached.

    A revision that is a whole commit hash and complete in the cache costs no network. Raises SpecError for an id,
    revision or permission that the hub refuses, HostError when neither hub nor cache has it.
    """
    match = HUB_ID.fullmatch(source)
    if match is None:
        raise SpecError(f"'{source}' is not a hub id", expected="org/name or org/name@revision")
    repo, revision = match["repo"], match["revision"]
    if revision and _COMMIT.fullmatch(revision):
        cached = _cached(repo, revision)
        if cached is not None and _is_whole(cached.path):
            return cached
    return _download(repo, revision, talk)


def current_commit(source: str) -> str:
    """The commit that `org/name[@revision]` means on the hub at this moment; nothing is downloaded.

    Raises SpecError for an id, revision or permission that the hub refuses, HostError when it cannot be asked.
    """
    match = HUB_ID.fullmatch(source)
    if match is None:
        raise SpecError(f"'{source}' is not a hub id", expected="org/name or org/name@revision")
    repo, revision = match["repo"], match["revision"]
    if revision and _COMMIT.fullmatch(revision):
        return str(revision)
    from huggingface_hub import model_info

    try:
        return str(model_info(repo, revision=revision, timeout=_ANSWER_S).sha)
    except Exception as error:  # as in `_download`
        if type(error).__name__ in _REFUSALS:
            raise _refused(repo, revision, type(error).__name__) from None
        raise HostError(
            f"the hub cannot be asked for {_name(repo, revision)}: {_reason(error)}",
            expected="network, and a token that has not expired if one is set",
            fix="check the network and `hf auth whoami`",
        ) from None


def _download(repo: str, revision: str | None, talk: Talk) -> Snapshot:
    from huggingface_hub import snapshot_download

    talk.say(f"asking the Hugging Face hub for {repo}" + (f" at {revision}" if revision else ""))
    try:
        path = snapshot_download(repo, revision=revision, allow_patterns=_ALLOW, ignore_patterns=_IGNORE)
        return Snapshot(path=Path(path), commit=Path(path).name)
    except Exception as error:  # each version of the hub's client fails with the classes of another HTTP library
        if type(error).__name__ in _REFUSALS:
            raise _refused(repo, revision, type(error).__name__) from None
        cached = _cached(repo, revision)
        if cached is None:
            raise _unreachable(repo, revision, error) from None
        talk.warn(f"the hub cannot be reached; {repo} is taken from the local cache, at {cached.commit[:12]}")
        return cached


def _cached(repo: str, revision: str | None) -> Snapshot | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        path = snapshot_download(repo, revision=revision, local_files_only=True)
    except (LocalEntryNotFoundError, OSError, ValueError):
        return None
    return Snapshot(path=Path(path), commit=Path(path).name) if (Path(path) / "config.json").is_file() else None


def _is_whole(folder: Path) -> bool:
    """Whether config, tokenizer and all shards are there. Other programs fetch single files into the same cache."""
    if not all((folder / name).is_file() for name in _ESSENTIAL):
        return False
    index = folder / INDEX_NAME
    if not index.is_file():
        return any(folder.glob("*.safetensors"))
    return all((folder / name).is_file() for name in weight_map(index).values())


_REFUSALS = {
    "HFValidationError": ("is no name of a repository", "write org/name or org/name@revision"),
    "GatedRepoError": ("is gated", "accept its licence on the hub and log in with `hf auth login`"),
    "RevisionNotFoundError": ("has no such revision", "check the branch, tag or commit after the '@'"),
    "RepositoryNotFoundError": (
        "was not found",
        "check the id; a private one needs `hf auth login`; a folder must exist",
    ),
}


def _refused(repo: str, revision: str | None, kind: str) -> SpecError:
    what, fix = _REFUSALS[kind]
    return SpecError(
        f"the hub says that {_name(repo, revision)} {what}", expected="a repository that this user may read", fix=fix
    )


def _unreachable(repo: str, revision: str | None, error: Exception) -> HostError:
    return HostError(
        f"{_name(repo, revision)} is no folder, not in the local cache, and the hub cannot be asked ({_reason(error)})",
        expected="network and disk space, or a cache filled before (HF_HOME says where it is)",
        fix=f"run `hf download {repo}` where there is network, or give a folder as the model",
    )


def _reason(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0] or type(error).__name__


def _name(repo: str, revision: str | None) -> str:
    return f"{repo}@{revision}" if revision else repo
