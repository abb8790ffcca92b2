"""The fixture `no_leaks`: finds what a test leaves behind, and what holds it."""
