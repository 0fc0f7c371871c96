"""From an artifact to a running Triton: one file per target, and what they share (ports, processes, launch lines)."""
