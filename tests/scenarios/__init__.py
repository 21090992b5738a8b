"""Scenarios: tables of what must happen, and the tests that act them out."""
