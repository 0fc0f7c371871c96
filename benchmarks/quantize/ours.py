"""The kit's quantizer on one model, without the build around it.

python ours.py MODEL SCHEME IDS.npy OUT [--dtype float32]
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np

from builder.digests import DigestCache
from builder.fetch import fetch
from builder.quantize import quantize
from builder.quantize.calibration import compute_dtype
from builder.quantize.calibration.samples import CalibrationSet
from builder.quantize.recipe import Recipe
from trtllm_kit.console import Silent


def main() -> None:
    """Quantize into the unified Hugging Face layout; the checkpoint's digest is known from the run before."""
    parser = argparse.ArgumentParser()
    for name in ("model", "scheme", "ids", "out"):
        parser.add_argument(name)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"))
    options = parser.parse_args()
    out = Path(options.out)
    digests = DigestCache(out.parent / "digests.json")
    checkpoint = fetch(options.model, trust_remote_code=False, digests=digests, talk=Silent())
    digests.save()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    recipe = Recipe(precision=options.scheme)
    calibration = None
    if recipe.needs_calibration:
        dtype = options.dtype or compute_dtype.choose("cpu", out.parent / "compute_dtype.json")
        recipe = Recipe(precision=options.scheme, calibration_dtype=dtype)
        calibration = CalibrationSet(np.load(options.ids))
    quantize(checkpoint, recipe, layout="hf", tp_size=1, pp_size=1, out=out, talk=Silent(), calibration=calibration)


if __name__ == "__main__":
    main()
