"""Networks: published sizes, seeds, and errors that say what to do."""

from __future__ import annotations

import torch
import yaml

from birdsd.config import config_folder
from birdsd.diffusion.networks import models
from birdsd.errors import BadValue, Damaged, Mismatch, NotFound
from tests.support.errors import refuses
from tests.support.tiny import UNET, VAE


def sizes(name: str, bands: int, frames: int) -> dict[str, int]:
    preset = yaml.safe_load((config_folder() / "model" / f"{name}.yaml").read_text())
    with torch.device("meta"):
        vae = models.build_vae(preset["vae"])
        text = models.build_text_encoder(
            preset["text"], vocabulary=preset["vocabulary_size"], max_tokens=preset["max_tokens"]
        )
        unet = models.build_unet(
            preset["unet"],
            latent_channels=preset["vae"]["latent_channels"],
            sample_size=models.latent_size(vae.config, bands, frames),
            context_width=preset["text"]["hidden_size"],
        )
    return {
        k: sum(p.numel() for p in m.parameters()) for k, m in (("unet", unet), ("vae", vae), ("text", text))
    }


def test_sd15_has_the_published_sizes():
    assert sizes("sd15", 512, 512) == {"unet": 859_520_964, "vae": 83_653_863, "text": 123_060_480}


def test_small_and_tiny_are_what_they_are_called():
    assert 50e6 < sum(sizes("small", 256, 512).values()) < 100e6
    assert sum(sizes("tiny", 128, 512).values()) < 10e6


def test_weights_depend_on_the_seed_alone():
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = models.build_vae(VAE, seed=5).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    again, other = models.build_vae(VAE, seed=5).state_dict(), models.build_vae(VAE, seed=6).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["encoder.conv_in.weight"], other["encoder.conv_in.weight"])


def test_an_image_that_does_not_fit_names_the_size_that_would():
    vae = models.build_vae(VAE)
    assert models.latent_size(vae.config, 32, 64) == (8, 16)
    with refuses("codec.bands=30", "32", kind=Mismatch):
        models.latent_size(vae.config, 30, 64)


def test_arguments_that_cannot_work_name_the_part():
    with refuses("model.vae", kind=BadValue):
        models.build_vae({**VAE, "colour": "blue"})
    with refuses("model.unet", kind=BadValue):
        models.build_unet(
            {**UNET, "norm_num_groups": 7}, latent_channels=4, sample_size=(8, 16), context_width=32
        )
    with refuses("model.", "multiples of 2", kind=Mismatch):
        models.build_unet(UNET, latent_channels=4, sample_size=(7, 16), context_width=32)


def test_a_hub_id_that_cannot_be_loaded_is_a_sentence(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for load in (models.load_vae, models.load_unet, models.load_text):
        with refuses("nobody/nothing", kind=Damaged):
            load("nobody/nothing")


def test_a_folder_without_the_part_is_a_sentence(tmp_path):
    with refuses(str(tmp_path), "'vae'", kind=NotFound):
        models.load_vae(str(tmp_path))


def test_damaged_weights_are_a_sentence(tmp_path):
    models.build_vae(VAE).save_pretrained(tmp_path)
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with refuses("vae of model.autoencoder=", kind=Damaged):
        models.load_vae(str(tmp_path))


def test_pickled_weights_are_not_read(tmp_path):
    models.build_vae(VAE).save_pretrained(tmp_path, safe_serialization=False)
    with refuses(("vae of model.autoencoder=", "safetensors"), kind=Damaged):
        models.load_vae(str(tmp_path))


def test_an_autoencoder_is_found_in_a_run_an_export_and_a_pipeline(tmp_path):
    vae = models.build_vae(VAE, seed=1)
    vae.save_pretrained(tmp_path / "run" / "export")
    vae.save_pretrained(tmp_path / "pipeline" / "vae")
    for folder in ("run", "run/export", "pipeline", "pipeline/vae"):
        assert models.weights_key(models.load_vae(str(tmp_path / folder))) == models.weights_key(vae)
    assert models.weights_key(models.build_vae(VAE, seed=2)) != models.weights_key(vae)
