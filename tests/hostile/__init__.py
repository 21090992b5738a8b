"""Hostile mails through the real door."""
