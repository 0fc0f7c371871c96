"""The cpu runtime behind Triton: an engine with in-flight batching, and a python-based backend named `tensorrtllm`."""
