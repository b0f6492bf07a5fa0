"""From labelled recordings to shards."""
