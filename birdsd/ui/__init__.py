"""`birdsd ui`: a page in the browser of this machine."""
