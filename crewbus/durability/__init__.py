"""Recording, steps, resuming and forking."""
