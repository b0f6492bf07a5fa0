"""Memory and time, estimated before anything runs."""
