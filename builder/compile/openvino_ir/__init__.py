"""Hugging Face checkpoint → OpenVINO IR with openvino's opset alone: no torch, no optimum, no transformers.

Weights reach the IR in the bytes they have in the checkpoint, so INT8 and INT4 stay compressed, and the same checkpoint
gives the same `.xml` and `.bin` byte for byte.
"""
