"""Sound files in and out: formats, headers, channels, levels."""
