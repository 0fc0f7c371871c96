"""The load generator: what is sent when, what came back when, on disk as it comes, and figures that can be believed."""
