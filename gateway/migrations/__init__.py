"""Numbered steps from one schema to the next, run by `playhouse.migrations` (`ringback migrate`)."""
