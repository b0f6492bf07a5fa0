"""The page of a comparison of fine-tuning methods."""
