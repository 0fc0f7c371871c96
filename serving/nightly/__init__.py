"""Every night: rebuild what changed, prove it no worse than what is in service, promote it or keep what is there."""
