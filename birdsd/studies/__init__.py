"""Several runs that belong together: the demo, comparisons of methods, and grids."""
