"""What only a GPU shows. `pytest -m gpu` runs it there; BIRDSD_GPU_REHEARSAL=cpu runs the same on the CPU."""
