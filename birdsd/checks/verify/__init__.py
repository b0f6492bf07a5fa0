"""`birdsd verify`: whether an interrupted run learns the same as one that was left alone."""
