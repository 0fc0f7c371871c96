"""Does a deployment do what it should: smoke, parity with Hugging Face, throughput, and a verdict on all of it."""
