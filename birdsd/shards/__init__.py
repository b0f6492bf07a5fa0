"""WebDataset shards: index, writer, order of samples, reader."""
