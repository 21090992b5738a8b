"""Drills against real processes (`python -m tests.drill [name…]`): kill -9, fail points, faults."""
