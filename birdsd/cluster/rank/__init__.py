"""One process's part in an allocation: signals, the lock, the heartbeat."""
