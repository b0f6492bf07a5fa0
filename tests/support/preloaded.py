"""Imported before the forks of `fork_ranks`, so that no child need do it again. Nothing is computed here."""

import importlib

import torch

for name in (
    "torch.utils.tensorboard", "diffusers.models.autoencoders.autoencoder_kl", "peft",
    "diffusers.models.unets.unet_2d_condition", "diffusers.schedulers.scheduling_ddpm",
    "transformers.models.clip.modeling_clip", "birdsd.training.loop", "birdsd.diffusion.methods.full",
    "birdsd.diffusion.methods.classifier", "birdsd.diffusion.methods.autoencoder", "tests.support.toy",
):  # fmt: skip
    importlib.import_module(name)
torch.optim.AdamW([torch.zeros(1)])  # the first one imports half of torch
