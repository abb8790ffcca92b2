"""Events and values as JSON, and back."""
