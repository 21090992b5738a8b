"""The whole way against real processes: socket to page, page to file."""
