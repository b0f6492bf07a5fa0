"""From a request to clips: conditioning, guidance, sampling, and the sound."""
