"""Records: what runs emitted, read back from a store."""
