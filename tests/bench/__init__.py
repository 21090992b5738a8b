"""Measured speed (`python -m tests.bench [name…]`): each measure in its own file, each one command."""
