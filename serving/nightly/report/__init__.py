"""What a night came to: a page and JSON for people, metrics for Prometheus, a message to a webhook; and the history."""

from serving.nightly.report.write import summarize, write_metrics, write_night, write_summary

__all__ = ["summarize", "write_metrics", "write_night", "write_summary"]
