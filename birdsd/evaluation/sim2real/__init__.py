"""Does generated sound help a classifier? What the experiment's arms and cells are, and what they answer."""
