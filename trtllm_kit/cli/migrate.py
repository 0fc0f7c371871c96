"""`trtllm-kit migrate`: from an engine to the runtime that outlives it."""

from __future__ import annotations

from pathlib import Path

import click

from builder import manifest
from builder.migrate import plan_migration
from trtllm_kit.cli import options
from trtllm_kit.cli.session import open_store
