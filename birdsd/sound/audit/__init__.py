"""What a codec loses of your own recordings, measured before weeks of training rest on it."""
