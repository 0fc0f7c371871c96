"""Artifacts in OCI registries, as images that Kubernetes can mount: one uncompressed tar layer for each part."""
