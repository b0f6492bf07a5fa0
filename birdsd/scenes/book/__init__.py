"""The prompt book of a model: what may be asked of it, and how often it did as it was asked."""
