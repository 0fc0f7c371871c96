"""`trtllm-kit migrate`: from an engine to the runtime that outlives it."""

from __future__ import annotations

