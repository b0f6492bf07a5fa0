"""Self-contained HTML pages, and the blocks to build them from."""
