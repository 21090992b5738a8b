"""Ways in: listeners receive, parsers turn bytes into values. Nothing here decides, nothing here writes tickets."""
