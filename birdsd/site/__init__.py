"""The resources of a site: this machine, a notebook service, or a Slurm cluster. Imports no torch."""
