"""The nightly as files for a scheduler that is there already: cron, systemd, Kubernetes or Slurm."""

from serving.nightly.install.request import InstallRequest, Rendered
from serving.nightly.install.schedule import Schedule
from serving.nightly.install.targets import TARGETS
from serving.nightly.install.write import write

__all__ = ["TARGETS", "InstallRequest", "Rendered", "Schedule", "write"]
