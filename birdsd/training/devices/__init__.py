"""What a run computes on: device, number format, cores, and the ranks."""
