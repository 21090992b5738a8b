"""The pages: asked through Flask's own client, through a threaded server, and in a real browser."""
