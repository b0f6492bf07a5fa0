"""Small models, LoRA, tokens and aesthetic embeddings to send out, and loaders that are not ours."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from birdsd.diffusion import export
from birdsd.diffusion.adapters import write_adapter
from birdsd.diffusion.networks import models
from birdsd.diffusion.networks.token_vectors import write_embeddings
from tests.support.tiny import CODEC, SPECIES

PROMPTS = ["an American Robin singing", "a Eurasian Wren in rain"]
HEARD = export.TrainingSet(
    SPECIES, False, ({"recording_id": "XC1", "species": SPECIES[0], "licence": "CC0", "recordist": "R"},)
)
TOKENS = {"<black-phoebe>": 2, "<dark-eyed-junco>": 1}
WORDS = {"Black Phoebe": "<black-phoebe>", "Dark-eyed Junco": "<dark-eyed-junco>"}


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def random_weights(module, seed: int, scale: float = 0.1):
    """Every parameter drawn anew: biases of zero and norms of one would hide a swapped pair."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw) * scale)
    return module


@pytest.fixture(scope="session")
def grand_folder(pipeline_folder, tmp_path_factory) -> Path:
    """Three levels of two layers, attention from the first on and in the autoencoder; it predicts v."""
    vae = {"block_out_channels": [8, 16], "layers_per_block": 2, "norm_num_groups": 4, "scaling_factor": 0.3}
    unet = {
        "block_out_channels": [8, 16, 32],
        "layers_per_block": 2,
        "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        "attention_head_dim": 2,
        "norm_num_groups": 4,
    }
    text = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    tokenizer = models.load_text(str(pipeline_folder))[1]
    noise = {**models.scheduler_config(str(pipeline_folder)), "prediction_type": "v_prediction"}
    made_unet = models.build_unet(unet, latent_channels=4, sample_size=(16, 32), context_width=24)
    made_text = models.build_text_encoder(text, vocabulary=len(tokenizer), max_tokens=16)
    return export.write_pipeline(
        tmp_path_factory.mktemp("grand") / "export",
        unet=random_weights(made_unet, 1),
        vae=random_weights(models.build_vae(vae), 2),
        text_encoder=random_weights(made_text, 3),
        tokenizer=tokenizer,
        scheduler={**noise, "rescale_betas_zero_snr": True},
        codec=CODEC.to_json(),
        heard=HEARD,
        about={"method": "full", "prediction": "v_prediction", "words": {"Eurasian Wren": "sks bird"}},
    )


def with_lora(folder: Path, everywhere: bool = True):
    """(unet, text encoder) of a pipeline with an update of every layer that a LoRA may have; alpha is not
    the rank, and one rank and one alpha differ from the others."""
    from peft import LoraConfig

    unet, text = models.load_unet(str(folder)), models.load_text(str(folder))[0]
    ends = ["to_q", "to_k", "to_v", "to_out.0"]
    if everywhere:
        ends += ["ff.net.0.proj", "ff.net.2", "proj_in", "proj_out", "conv1", "conv2", "conv_shortcut"]
        ends += ["downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj"]
    ranks = {"mid_block.attentions.0.transformer_blocks.0.attn1.to_q": 2} if everywhere else {}
    alphas = {"mid_block.attentions.0.proj_in": 1} if everywhere else {}
    unet.add_adapter(
        LoraConfig(r=4, lora_alpha=6, target_modules=ends, rank_pattern=ranks, alpha_pattern=alphas)
    )
    text.add_adapter(LoraConfig(r=2, lora_alpha=3, target_modules=["q_proj", "v_proj", "out_proj", "fc1"]))
    draw = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for network in (unet, text):
            for name, parameter in network.named_parameters():
                if "lora_" in name:
                    parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.2)
    return unet, text


@pytest.fixture(scope="session")
def lora_folder(grand_folder, tmp_path_factory) -> Path:
    from birdsd.diffusion.methods.lora import write_lora

    unet, text = with_lora(grand_folder)
    return write_adapter(
        tmp_path_factory.mktemp("lora") / "export",
        "lora",
        lambda partial: write_lora(partial, unet, text),
        codec=CODEC.to_json(),
        heard=HEARD,
        about={"method": "lora", "rank": 4, "alpha": 6},
        base=str(grand_folder),
        words={"Black Phoebe": "sks phoebe"},
    )


@pytest.fixture(scope="session")
def tokens_folder(grand_folder, tmp_path_factory) -> Path:
    vectors = {token: drawn(11 + number, n, 24) for number, (token, n) in enumerate(TOKENS.items())}
    return write_adapter(
        tmp_path_factory.mktemp("tokens") / "export",
        "embedding",
        lambda partial: write_embeddings(partial, vectors),
        codec=CODEC.to_json(),
        heard=HEARD,
        about={"method": "textual_inversion", "tokens": TOKENS},
        base=str(grand_folder),
        words=WORDS,
    )


@pytest.fixture(scope="session")
def aesthetic_folder(grand_folder, tmp_path_factory) -> Path:
    from safetensors.torch import save_file

    def write(partial: Path) -> None:
        vectors = {"all": drawn(21, 1, 20), "American Robin": drawn(22, 1, 20)}
        save_file(vectors, str(partial / "aesthetic.safetensors"))
        save_file({"text_projection": drawn(23, 20, 24)}, str(partial / "text_projection.safetensors"))

    return write_adapter(
        tmp_path_factory.mktemp("aesthetic") / "export",
        "aesthetic",
        write,
        codec=CODEC.to_json(),
        heard=HEARD,
        about={"method": "aesthetic_gradients"},
        base=str(grand_folder),
    )


def load(folder):
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline.from_pretrained(str(folder), safety_checker=None)


def load_single(file, config, **options):
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline.from_single_file(
        str(file), config=str(config), local_files_only=True, safety_checker=None, **options
    )


def latents(pipeline, prompts=PROMPTS, steps: int = 2) -> torch.Tensor:
    """What a diffusers pipeline makes of the prompts, from the same noise each time."""
    pipeline.set_progress_bar_config(disable=True)
    noise = drawn(5, len(prompts), 4, *pipeline.unet.config.sample_size)
    made = pipeline(
        list(prompts), latents=noise, num_inference_steps=steps, guidance_scale=3.0, output_type="latent"
    )
    return made.images


def same_pictures(one, other) -> None:
    """Latents, the autoencoder behind them and the settings: equal to the bit."""
    made = latents(one)
    assert torch.equal(made, latents(other))
    picture = drawn(1, 1, 3, 32, 64)
    with torch.no_grad():
        assert torch.equal(one.vae.decode(made[:1])[0], other.vae.decode(made[:1])[0])
        moments = [each.vae.encode(picture).latent_dist.parameters for each in (one, other)]
    assert torch.equal(*moments)
    assert one.vae.config.scaling_factor == other.vae.config.scaling_factor
    assert one.scheduler.config.prediction_type == other.scheduler.config.prediction_type
