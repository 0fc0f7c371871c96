"""Every expected failure, one class and one exit code each, so that a scheduler can tell them apart.

A message has three parts: what happened, what was expected, what to do next. `KitError` takes them apart so that no
caller can forget one: ``SpecError("unknown key 'precison'", expected="one of ...", fix="write 'precision'")``.
"""

from __future__ import annotations


class KitError(Exception):
    """Root of all expected failures; the command prints it in full and exits with `exit_code`, without a traceback."""

    exit_code = 1

    def __init__(self, happened: str, *, expected: str = "", fix: str = "") -> None:
        super().__init__(happened)
        self.happened = happened
        self.expected = expected
        self.fix = fix

    def __str__(self) -> str:
        lines = [self.happened]
        if self.expected:
            lines.append(f"  expected: {self.expected}")
        if self.fix:
            lines.append(f"  to do:    {self.fix}")
        return "\n".join(lines)


class UsageError(KitError):
    """The command line itself is wrong."""

    exit_code = 2


class SpecError(KitError):
    """The spec, the checkpoint or a combination of settings cannot be built."""

    exit_code = 3


class HostError(KitError):
    """Something that this machine should offer is missing or broken (TensorRT-LLM, tritonserver, disk, a port)."""

    exit_code = 4


class IncompatibleError(KitError):
    """An artifact does not fit the target that it is to be deployed on."""

    exit_code = 5


class QualityError(KitError):
    """The build lost more quality than its limits allow, or parity with Hugging Face was not met."""

    exit_code = 6


class PerformanceError(KitError):
    """A throughput, SLO or cost gate was not met."""

    exit_code = 7


class FitError(KitError):
    """The model would not fit, or did not fit, into the target's memory."""

    exit_code = 8


class BuildStepError(KitError):
    """A step of the build failed; what finished before it is kept and the next run resumes there."""

    exit_code = 9


class RolloutError(KitError):
    """A deployment did not become ready and was rolled back."""

    exit_code = 11


class IntegrityError(KitError):
    """Bytes are not what the manifest says they are."""

    exit_code = 15


CHANGES_PENDING = 10
"""Exit code of `plan --check` when something would be built; no failure, so no exception."""
