"""The page about one run: `birdsd report`."""
