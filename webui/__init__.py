"""The web inbox: server-rendered pages that work without JavaScript; every click becomes a value for `desk.perform`."""
