"""Which ends are worth another attempt: the same table for every executor and for rendered manifests."""

from __future__ import annotations

from typing import Literal

from trtllm_kit import errors

Again = Literal["never", "once", "always"]

AGAIN: dict[int, Again] = {
    0: "never",
    1: "never",  # a bug does the same again
    errors.UsageError.exit_code: "never",
    errors.SpecError.exit_code: "never",
    errors.HostError.exit_code: "once",  # a full disk or a lost network may have passed, elsewhere even more so
    errors.IncompatibleError.exit_code: "never",
    errors.QualityError.exit_code: "never",
    errors.PerformanceError.exit_code: "never",
    errors.FitError.exit_code: "never",
    errors.BuildStepError.exit_code: "never",  # upstream's compiler refused the same input
    errors.RolloutError.exit_code: "once",
    errors.IntegrityError.exit_code: "never",
}
"""By exit code. A process that was killed, or whose node was lost, said nothing about its task: it runs again."""


def again(exit_code: int, attempts: int, *, most: int = 3) -> bool:
    """Whether a task that ended so, on its `attempts`-th attempt, is run again."""
    if attempts >= most:
        return False
    wanted = AGAIN.get(exit_code, "always" if exit_code > 128 else "never")
    return wanted == "always" or (wanted == "once" and attempts < 2)
