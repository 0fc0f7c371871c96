"""What the stages do that is more than one call: what each depends on, and how it runs."""
