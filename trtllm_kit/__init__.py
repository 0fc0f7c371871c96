"""The front door of trtllm-kit: the `trtllm-kit` command, and the words that every floor shares."""

__version__ = "0.1.0"
