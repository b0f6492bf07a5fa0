"""Imported before the forks of `fork_ranks`, so that no child need do it again. Nothing is computed here."""

import importlib
import os
from contextlib import suppress

import torch

for name in (
    "torch.utils.tensorboard", "diffusers.models.autoencoders.autoencoder_kl", "peft",
    "diffusers.models.unets.unet_2d_condition", "diffusers.schedulers.scheduling_ddpm",
    "transformers.models.clip.modeling_clip", "birdsd.training.loop", "birdsd.diffusion.methods.full",
    "birdsd.diffusion.methods.lora", "birdsd.diffusion.methods.textual_inversion",
    "birdsd.diffusion.methods.dreambooth", "birdsd.diffusion.methods.classifier",
    "birdsd.diffusion.methods.autoencoder", "birdsd.training.engines.deepspeed_engine",
    "birdsd.sound.captions", "tests.support.toy",
):  # fmt: skip
    importlib.import_module(name)
torch.optim.AdamW([torch.zeros(1)])  # the first one imports half of torch
# DeepSpeed takes longer to import than most ranks to run, and looks for its accelerator at once. A rank's own
# environment takes the place of this one.
os.environ["DS_ACCELERATOR"] = "cpu"
with suppress(ImportError):
    importlib.import_module("deepspeed.ops")
    importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")  # brings torch's compiler along
