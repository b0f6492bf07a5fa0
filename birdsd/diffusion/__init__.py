"""Models, methods, sampling and formats."""
