"""Sound that comes from somewhere: how it travels, what receivers hear of it, and where it came from."""
