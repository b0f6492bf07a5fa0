"""What was learnt, measured: numbers, no pages."""
