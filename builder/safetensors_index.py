"""What a folder's safetensors files hold, read from their headers alone and proven consistent with their sizes.

A shard that was cut short or mixed up is found here, in milliseconds, and not by a crash after an hour of work.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

from builder.checkpoint import TensorEntry
from trtllm_kit.errors import IntegrityError, SpecError
from trtllm_kit.files import read_json

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
FETCH_AGAIN = "fetch the file again: it was not copied whole, or it was written by a broken tool"

ITEM_BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
_MAX_HEADER_BYTES = 100_000_000  # the format's own limit
_NUMBERED = re.compile(r".+-(\d{5})-of-(\d{5})\.safetensors")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def read_tensors(folder: Path) -> dict[str, TensorEntry]:
    """Every tensor of the checkpoint in `folder`, by name.

    Raises SpecError for missing files and names, IntegrityError for files that are not what their headers say.
    """
    index = folder / INDEX_NAME
    wanted = weight_map(index) if index.is_file() else {}
    files = sorted(set(wanted.values())) if wanted else _files_without_index(folder)
    _check_present(folder, files)
    tensors: dict[str, TensorEntry] = {}
    for name in files:
        for key, entry in read_header(folder / name).items():
            if key in tensors:
                raise IntegrityError(
                    f"the tensor {key} is both in {tensors[key].file.name} and in {name}",
                    expected="each tensor in one shard",
                    fix="remove shards that belong to another checkpoint, or save it again with save_pretrained",
                )
            tensors[key] = entry
    _check_index(wanted, tensors)
    return tensors


def read_header(path: Path) -> dict[str, TensorEntry]:
    """The tensors of one safetensors file; IntegrityError when header and file disagree in any way."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        if head.startswith(b"version "):
            raise IntegrityError(
                f"{path} is a Git LFS pointer, not the weights", expected="a safetensors file", fix="run `git lfs pull`"
            )
        length = int.from_bytes(head, "little")
        if size < 8 or not 0 < length <= min(size - 8, _MAX_HEADER_BYTES):
            raise _broken(path, f"{size} bytes are too few for its header" if length else "it has no header")
        text = file.read(length)
    try:
        header = json.loads(text, object_pairs_hook=_unique)
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise _broken(path, f"its header is not JSON: {error}") from None
    if not isinstance(header, dict):
        raise _broken(path, "its header is not an object")
    header.pop("__metadata__", None)
    entries = {name: _entry(path, name, fields, start=8 + length) for name, fields in header.items()}
    _check_contiguous(path, entries, start=8 + length, size=size)
    return entries


def weight_map(index: Path) -> dict[str, str]:
    """The shard of each tensor, as the index says; SpecError when it is no index of safetensors files beside it."""
    tree = read_json(index, "the index of the shards")
    found = tree.get("weight_map") if isinstance(tree, dict) else None
    if not isinstance(found, dict) or not found or not all(isinstance(name, str) for name in found.values()):
        raise SpecError(
            f"{index} has no weight_map", expected="tensor names with the file that each is in", fix="fetch it again"
        )
    strange = next(
        (name for name in found.values() if Path(name).name != name or not name.endswith(".safetensors")), None
    )
    if strange is not None:
        raise SpecError(
            f"{index} names the file '{strange}'",
            expected="safetensors files beside the index",
            fix="convert the checkpoint with save_pretrained(..., safe_serialization=True)",
        )
    return found


def _files_without_index(folder: Path) -> list[str]:
    names = sorted(path.name for path in folder.glob("*.safetensors") if not path.name.startswith("consolidated"))
    if SINGLE_NAME in names:
        return [SINGLE_NAME]
    if not names:
        raise _no_weights(folder)
    numbered = [match for name in names if (match := _NUMBERED.fullmatch(name))]
    if numbered and len(numbered) != int(numbered[0][2]):
        there = {int(match[1]) for match in numbered}
        missing = sorted(set(range(1, int(numbered[0][2]) + 1)) - there)
        raise _missing(folder, [numbered[0][0].replace(f"-{numbered[0][1]}-", f"-{number:05d}-") for number in missing])
    return names


def _no_weights(folder: Path) -> SpecError:
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        return SpecError(
            f"{folder} has only pickled weights ({', '.join(pickles[:3])}), which can run any code when loaded",
            expected="safetensors files",
            fix="convert it where you trust it: AutoModelForCausalLM.from_pretrained(FOLDER)"
            ".save_pretrained(FOLDER, safe_serialization=True)",
        )
    return SpecError(f"{folder} has no weights", expected="*.safetensors beside config.json", fix="fetch them")


def _missing(folder: Path, names: list[str]) -> SpecError:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return SpecError(
        f"{folder} lacks the shard {', '.join(names[:3])}{more}",
        expected="all shards of the checkpoint",
        fix="fetch the missing files",
    )


def _check_present(folder: Path, files: list[str]) -> None:
    absent = [name for name in files if not (folder / name).is_file()]
    if absent:
        raise _missing(folder, absent)


def _check_index(wanted: Mapping[str, str], tensors: Mapping[str, TensorEntry]) -> None:
    for name, file in wanted.items():
        found = tensors.get(name)
        if found is None or found.file.name != file:
            where = f"that is in {found.file.name}" if found else "that no shard holds"
            raise IntegrityError(
                f"{INDEX_NAME} says that {file} holds {name}, {where}",
                expected="an index made for these very shards",
                fix="fetch index and shards again, from one revision",
            )


def _entry(path: Path, name: str, fields: Any, *, start: int) -> TensorEntry:
    if not isinstance(fields, dict):
        raise _broken(path, f"the header's entry for {name} is not an object")
    dtype, shape, offsets = (fields.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not (_whole_numbers(shape) and _whole_numbers(offsets) and len(offsets) == 2 and isinstance(dtype, str)):
        raise _broken(path, f"the header's entry for {name} has no dtype, shape or offsets")
    if dtype not in ITEM_BYTES:
        raise _broken(path, f"{name} has the dtype {dtype}, which the kit does not know")
    size = math.prod(shape) * ITEM_BYTES[dtype]
    if offsets[1] - offsets[0] != size:
        raise _broken(path, f"{name} should take {size} bytes, its offsets give {offsets[1] - offsets[0]}")
    return TensorEntry(file=path, dtype=dtype, shape=tuple(shape), start=start + offsets[0], size_bytes=size)


def _whole_numbers(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _check_contiguous(path: Path, entries: Mapping[str, TensorEntry], *, start: int, size: int) -> None:
    """The format allows neither holes nor overlaps, so the tensors must fill the file to its last byte."""
    at = start
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].size_bytes)):
        if entry.start != at:
            wrong = "overlaps its neighbour" if entry.start < at else "follows a hole"
            raise _broken(path, f"the data of {name} {wrong}")
        at += entry.size_bytes
    if at > size:
        raise _broken(path, f"it was cut short: {size} of {at} bytes are there")
    if at < size:
        raise _broken(path, f"{size - at} bytes follow its last tensor")
    if not entries:
        raise _broken(path, "it holds no tensor")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name appears twice")
    return found


def _broken(path: Path, why: str) -> IntegrityError:
    return IntegrityError(f"{path} is not a sound safetensors file: {why}", expected="a whole file", fix=FETCH_AGAIN)
