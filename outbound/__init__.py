"""Ways out: claimed outbox rows are rendered once and sent by one thin function per protocol."""
