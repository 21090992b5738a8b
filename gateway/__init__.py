"""The core of Ringback: what is known, what is decided, what is written (DESIGN.md 4)."""
