"""Who vouches for an artifact: a bill of materials, a statement of where it comes from, and a signature over both."""
