"""Sound, from recordings to images and back. Here: clips cut, captioned, mixed, invented, and told apart."""
