"""The networks themselves: built, loaded, placed, and checked for numbers that are not finite."""
