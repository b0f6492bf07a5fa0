"""A model that has learnt nothing: whole, small, made in a moment. It draws noise, always the same."""

from __future__ import annotations

from pathlib import Path

from birdsd.diffusion import export
from birdsd.diffusion.learning.denoiser import Denoising
from birdsd.diffusion.networks import models
from birdsd.diffusion.networks.tokenizer import train_tokenizer
from tests.support.tiny import CODEC, SPECIES, TEXT, UNET, VAE


def make_model(folder: Path, seed: int = 0, environments: tuple[str, ...] = ("rain", "wind")) -> Path:
    """Write a pipeline folder that knows `SPECIES` and `environments`."""
    vae = models.build_vae(VAE, seed)
    tokenizer = train_tokenizer([f"a {name} in rain" for name in SPECIES], 560, 16)
    text = models.build_text_encoder(TEXT, vocabulary=len(tokenizer), max_tokens=16, seed=seed)
    size = models.latent_size(vae.config, CODEC.bands, CODEC.frames)
    unet = models.build_unet(UNET, latent_channels=4, sample_size=size, context_width=32, seed=seed)
    rights = ({"recording_id": "XC1", "species": SPECIES[0], "licence": "CC BY-NC 4.0", "recordist": "R"},)
    return export.write_pipeline(
        folder,
        unet=unet,
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        scheduler=Denoising().scheduler_config(),
        codec=CODEC.to_json(),
        heard=export.TrainingSet(SPECIES, False, rights, environments),
        about={"base": "from scratch", "method": "full"},
    )
