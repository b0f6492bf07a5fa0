"""`birdsd doctor` and `birdsd verify`: checks before a job waits in the queue."""
