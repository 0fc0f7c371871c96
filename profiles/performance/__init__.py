"""How fast one replica will be: throughput when saturated, TTFT and TPOT at a concurrency.

numpy is only imported when a prediction is asked for.
"""

from __future__ import annotations

from profiles.performance.setup import Operating, Prediction, Setup

__all__ = ["Operating", "Prediction", "Setup", "at_concurrency", "max_throughput"]


def max_throughput(setup: Setup, isl: int, osl: int) -> Prediction:
    """Output tokens/s of the whole replica with requests of `isl` and `osl` tokens always waiting."""
    from profiles.performance.columns import Question
    from profiles.performance.model import predict

    return predict([Question(setup, isl, osl)])[0].saturated_tokens_per_s


def at_concurrency(setup: Setup, isl: int, osl: int, concurrency: int) -> Operating:
    """What `concurrency` users see who each send the next request when the last one is answered."""
    from profiles.performance.columns import Question
    from profiles.performance.model import predict

    return predict([Question(setup, isl, osl, concurrency=concurrency)])[0].operating
