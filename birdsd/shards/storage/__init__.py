"""How one shard lies on disk: its tar, its index, the bytes and pixels of its samples."""
