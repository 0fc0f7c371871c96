"""One small streaming client for everything that talks to a deployment: readiness, smoke, parity, load."""
