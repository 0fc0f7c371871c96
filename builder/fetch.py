"""From what the user calls a model to a `Checkpoint` that later stages need not doubt.

All that can be wrong with a checkpoint is found here, before any work: the checks read headers and JSON, never weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from builder.checkpoint import Checkpoint, Prequantized, TensorEntry
from builder.families import config_of, family_of
from builder.hub import HUB_ID, Snapshot, fetch_snapshot
from builder.model_config import ModelConfig
from builder.prequantized import QUANT_CONFIG, find_quantization
from builder.safetensors_index import INDEX_NAME, read_tensors
from builder.tokenizer_check import check_tokenizer
from builder.tokenizer_files import TOKENIZER_FILES
from builder.weight_check import check_weights
from trtllm_kit.console import Talk
from trtllm_kit.errors import HostError, SpecError
from trtllm_kit.files import fingerprint, read_json


class Digests(Protocol):
    """What `fetch` needs of `builder.digests.DigestCache`."""

    def sha256(self, file: Path) -> str:
        """Hex sha256 of `file`, remembered while its stat does not change."""


def fetch(spec_model: str, *, trust_remote_code: bool, digests: Digests, talk: Talk) -> Checkpoint:
    """Locate, check and fingerprint a checkpoint.

    Args:
        spec_model: a folder, or `org/name[@revision]` on the Hugging Face hub.
        trust_remote_code: accept a checkpoint that names code of its own. The kit itself never runs that code.

    Raises SpecError for a checkpoint that cannot be built, IntegrityError for broken files, HostError when the hub is
    out of reach and the cache has nothing.
    """
    snapshot = _locate(spec_model, talk)
    try:
        return _checked(spec_model, snapshot, trust_remote_code=trust_remote_code, digests=digests, talk=talk)
    except OSError as error:
        raise HostError(
            f"{snapshot.path} cannot be read: {error}",
            expected="files that this user may read, on a disk that answers",
            fix="check their permissions and the disk",
        ) from error


def _checked(source: str, snapshot: Snapshot, *, trust_remote_code: bool, digests: Digests, talk: Talk) -> Checkpoint:
    config, quantized = _read_config(snapshot.path, trust_remote_code=trust_remote_code)
    found = read_tensors(snapshot.path)
    family = family_of(config.architecture)
    tensors = check_weights(family, config, found, talk, quantized)
    check_tokenizer(snapshot.path, config)
    files = _digests(snapshot.path, tensors, digests, talk)
    return Checkpoint(
        source=source,
        path=snapshot.path,
        config=config,
        tensors=tensors,
        files=files,
        digest=fingerprint(files),
        quantized=quantized,
        revision=snapshot.commit or None,
    )


def _locate(source: str, talk: Talk) -> Snapshot:
    folder = Path(source).expanduser()
    if source and folder.is_dir():
        return Snapshot(path=folder, commit="")
    if source and folder.exists():
        raise SpecError(
            f"the model {source} is a file",
            expected="the folder with config.json and *.safetensors, or org/name on the Hugging Face hub",
            fix=f"give {folder.parent}",
        )
    if HUB_ID.fullmatch(source) is None or source.startswith(("./", "../")):
        raise SpecError(
            f"there is no folder '{source}'",
            expected="a folder with config.json and *.safetensors, or org/name[@revision] on the Hugging Face hub",
            fix="check the path; it is taken from where the spec lies",
        )
    return fetch_snapshot(source, talk)


def _read_config(folder: Path, *, trust_remote_code: bool) -> tuple[ModelConfig, Prequantized | None]:
    if not (folder / "config.json").is_file():
        raise SpecError(
            f"{folder} has no config.json",
            expected="a Hugging Face checkpoint: config.json, *.safetensors, tokenizer.json",
            fix="give the folder that save_pretrained wrote; for a base of adapters, merge them first",
        )
    raw = read_json(folder / "config.json", "the model's config")
    quantized = None
    if isinstance(raw, Mapping):
        quantized = find_quantization(folder, raw)
        if raw.get("auto_map") and not trust_remote_code:
            raise SpecError(
                f"{folder} brings code of its own (auto_map in config.json), and nobody has said that it may",
                expected="an architecture that needs no foreign code",
                fix="set `trust_remote_code: true` in the spec, if you trust its authors",
            )
    return config_of(raw), quantized


def _digests(folder: Path, tensors: Mapping[str, TensorEntry], digests: Digests, talk: Talk) -> dict[str, str]:
    """sha256 of every file that a build reads, by name."""
    names = {entry.file.name for entry in tensors.values()}
    names |= {name for name in ("config.json", QUANT_CONFIG, INDEX_NAME, *TOKENIZER_FILES) if (folder / name).is_file()}
    files: dict[str, str] = {}
    for done, name in enumerate(sorted(names)):
        talk.progress(done, len(names), "checking the checkpoint's files")
        files[name] = digests.sha256(folder / name)
    return files
