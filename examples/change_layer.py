"""Multiply one tensor of a checkpoint in place: a planted upstream change, small or harmful.

python change_layer.py FOLDER TENSOR FACTOR
"""

from __future__ import annotations

import sys
from pathlib import Path

from safetensors.torch import load_file, save_file


def main() -> None:
    """Rewrite the file, so that a reader sees the old or the new one."""
    folder, name, factor = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors[name] = (tensors[name].float() * factor).to(tensors[name].dtype)
    save_file(tensors, path.with_suffix(".new"), metadata={"format": "pt"})
    path.with_suffix(".new").replace(path)


if __name__ == "__main__":
    main()
