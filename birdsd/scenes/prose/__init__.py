"""Scenes from sentences and back, by a small grammar without a language model."""
