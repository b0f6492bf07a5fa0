"""Labels of recordings, in every format they come in, united to one labelled set."""
