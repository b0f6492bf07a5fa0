"""One process of an allocation: signals, the lock, the heartbeat."""
