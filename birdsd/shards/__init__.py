"""WebDataset shards as training sees them: the index of a set, the order of samples, the reader."""
