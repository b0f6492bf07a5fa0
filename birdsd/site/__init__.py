"""What a place to compute offers: this machine, a notebook service, or a Slurm cluster. Imports no torch."""
