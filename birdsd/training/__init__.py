"""One loop for every method: batch plan, engine, checkpoint, EMA."""
