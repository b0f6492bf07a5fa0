"""What fine-tuning methods share: the protocol, denoising, losses, and caches of embeddings."""
