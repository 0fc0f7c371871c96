"""Hugging Face as the reference: local files only, and without its talk on our stderr."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence warnings and progress bars of transformers for the length of a block.

    The corpus holds texts longer than the model's limit on purpose, about which it would complain.
    """
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
