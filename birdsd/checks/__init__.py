"""`birdsd doctor`: what could go wrong, looked at before a job waits in the queue."""
