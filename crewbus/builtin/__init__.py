"""The built-in plugins: written as anybody's, and blocked or replaced by name like anybody's."""
