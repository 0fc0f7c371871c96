"""One bare forward pass of transformers' model over the calibration tokens, which every calibration has to pay for.

python forward.py MODEL IDS.npy DTYPE
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from transformers import AutoModelForCausalLM


def main() -> None:
    """Without the output layer: calibration needs no logits."""
    folder, ids, dtype = sys.argv[1:]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    with torch.inference_mode():
        for batch in torch.from_numpy(np.load(ids)).split(2):
            model.model(batch, use_cache=False)


if __name__ == "__main__":
    main()
