"""Diffusion models. Here: a trained model as a folder, and the small things that stand on one."""
