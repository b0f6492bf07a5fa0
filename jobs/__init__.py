"""The jobs that a cluster runs, one short recipe a file."""
