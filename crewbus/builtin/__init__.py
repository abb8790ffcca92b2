"""The built-in plugins: written, blocked and replaced as any other plugin."""
