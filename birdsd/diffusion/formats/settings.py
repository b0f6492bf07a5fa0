"""The yaml beside a single-file checkpoint: what v1-inference.yaml of the original code says, for this model.

AUTOMATIC1111 takes NAME.yaml beside NAME.safetensors; without one it takes Stable Diffusion 1's own, which
predicts the noise. ComfyUI asks its ModelSamplingDiscrete node instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from birdsd.errors import Damaged

# diffusers' word -> the original code's. Its "linear" is linear in the square root of beta.
SCHEDULES = {"scaled_linear": "linear", "linear": "sqrt_linear", "squaredcos_cap_v2": "cosine"}
CLIP_WIDTH, CLIP_VOCABULARY = 768, 49408


def original_settings(
    unet: Mapping[str, Any], vae: Mapping[str, Any], scheduler: Mapping[str, Any]
) -> dict[str, Any]:
    """v1-inference.yaml with the values of these diffusers configurations."""
    channels, vae_channels = list(unet["block_out_channels"]), list(vae["block_out_channels"])
    heads = unet.get("attention_head_dim", 8)
    heads = sorted(set(heads)) if isinstance(heads, (list, tuple)) else [heads]
    attended = [2**n for n, name in enumerate(unet["down_block_types"]) if "CrossAttn" in name]
    params = {
        "linear_start": float(scheduler.get("beta_start", 0.00085)),
        "linear_end": float(scheduler.get("beta_end", 0.012)),
        "beta_schedule": SCHEDULES.get(str(scheduler.get("beta_schedule", "scaled_linear")), "linear"),
        "timesteps": int(scheduler.get("num_train_timesteps", 1000)),
        "parameterization": "v" if scheduler.get("prediction_type") == "v_prediction" else "eps",
        "num_timesteps_cond": 1,
        "log_every_t": 200,
        "first_stage_key": "jpg",
        "cond_stage_key": "txt",
        "image_size": _side(unet.get("sample_size") or 64),
        "channels": int(unet.get("in_channels", 4)),
        "cond_stage_trainable": False,
        "conditioning_key": "crossattn",
        "monitor": "val/loss_simple_ema",
        "scale_factor": float(vae.get("scaling_factor", 0.18215)),
        "use_ema": False,
        "unet_config": {
            "target": "ldm.modules.diffusionmodules.openaimodel.UNetModel",
            "params": {
                "image_size": 32,
                "in_channels": int(unet.get("in_channels", 4)),
                "out_channels": int(unet.get("out_channels", 4)),
                "model_channels": int(channels[0]),
                "attention_resolutions": attended[::-1],
                "num_res_blocks": unet.get("layers_per_block", 2),
                "channel_mult": [_ratio(value, channels[0]) for value in channels],
                "num_heads": int(heads[0]),
                "use_spatial_transformer": True,
                "transformer_depth": 1,
                "context_dim": int(unet["cross_attention_dim"]),
                "use_checkpoint": False,
                "legacy": False,
            },
        },
        "first_stage_config": {
            "target": "ldm.models.autoencoder.AutoencoderKL",
            "params": {
                "embed_dim": int(vae.get("latent_channels", 4)),
                "monitor": "val/rec_loss",
                "ddconfig": {
                    "double_z": True,
                    "z_channels": int(vae.get("latent_channels", 4)),
                    "resolution": 256,
                    "in_channels": int(vae.get("in_channels", 3)),
                    "out_ch": int(vae.get("out_channels", 3)),
                    "ch": int(vae_channels[0]),
                    "ch_mult": [_ratio(value, vae_channels[0]) for value in vae_channels],
                    "num_res_blocks": int(vae.get("layers_per_block", 2)),
                    "attn_resolutions": [],
                    "dropout": 0.0,
                },
                "lossconfig": {"target": "torch.nn.Identity"},
            },
        },
        "cond_stage_config": {"target": "ldm.modules.encoders.modules.FrozenCLIPEmbedder"},
    }
    target = "ldm.models.diffusion.ddpm.LatentDiffusion"
    return {"model": {"base_learning_rate": 1.0e-4, "target": target, "params": params}}


def _side(size: Any) -> int:
    return int(size if isinstance(size, int) else max(size))


def _ratio(value: int, first: int) -> int:
    return value // first if value % first == 0 else 0


def departs_from_default(settings: Mapping[str, Any]) -> bool:
    """Whether a program that assumes Stable Diffusion 1's own yaml would be wrong."""
    params = settings["model"]["params"]
    ours = {key: params[key] for key in ("linear_start", "linear_end", "beta_schedule", "parameterization")}
    default = {"linear_start": 0.00085, "linear_end": 0.012, "beta_schedule": "linear"}
    return (
        ours != {**default, "parameterization": "eps"} or abs(params["scale_factor"] - 0.18215) > 1e-9
    ) or params["unet_config"]["params"]["channel_mult"] != [1, 2, 4, 4]


def obstacles(
    unet: Mapping[str, Any], vae: Mapping[str, Any], text: Mapping[str, Any], settings: Mapping[str, Any],
    program: str = "a1111",
) -> list[str]:  # fmt: skip
    """Why AUTOMATIC1111 and ComfyUI, which build Stable Diffusion 1 around CLIP's own text encoder and
    tokenizer, could not run this model; [] where they can. ComfyUI reads no yaml, so that it also needs
    Stable Diffusion 1's own sizes and noise."""
    found = []
    if (text.get("hidden_size"), text.get("vocab_size")) != (CLIP_WIDTH, CLIP_VOCABULARY):
        found.append(
            f"the text encoder must be CLIP ViT-L/14 ({CLIP_WIDTH} wide, {CLIP_VOCABULARY} words), and is "
            f"{text.get('hidden_size')} wide with {text.get('vocab_size')} words"
        )
    heads = unet.get("attention_head_dim", 8)
    if isinstance(heads, (list, tuple)) and len(set(heads)) > 1:
        found.append(f"attention must have one number of heads, and has {list(heads)}")
    if {unet.get("norm_num_groups", 32), vae.get("norm_num_groups", 32)} != {32}:
        found.append("norms must have 32 groups, and have fewer")
    if vae.get("mid_block_add_attention", True) is False:
        found.append("the autoencoder must have attention in its middle, and has none")
    params = settings["model"]["params"]
    inside = params["unet_config"]["params"], params["first_stage_config"]["params"]["ddconfig"]
    if 0 in inside[0]["channel_mult"] + inside[1]["ch_mult"]:
        found.append("channels must be whole multiples of the first level's, and are not")
    if program == "comfyui":
        fixed = {"model_channels": 320, "num_heads": 8, "scale_factor": 0.18215, "beta_schedule": "linear"}
        fixed |= {"linear_start": 0.00085, "linear_end": 0.012}
        asked = {**inside[0], **params}
        found += [
            f"{key} must be {value}, and is {asked[key]}"
            for key, value in fixed.items()
            if asked[key] != value
        ]
    return found


def scheduler_of(settings: Any, path: object) -> dict[str, Any]:
    """What an original yaml says of the noise, in diffusers' words, and the latents' "scaling_factor"."""
    try:
        params = settings["model"]["params"]
        back = {theirs: ours for ours, theirs in SCHEDULES.items()}
        return {
            "beta_start": float(params.get("linear_start", 0.00085)),
            "beta_end": float(params.get("linear_end", 0.012)),
            "beta_schedule": back[str(params.get("beta_schedule", "linear"))],
            "prediction_type": "v_prediction" if params.get("parameterization") == "v" else "epsilon",
            "scaling_factor": float(params.get("scale_factor", 0.18215)),
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Damaged(
            f"{path} does not describe a model ({type(error).__name__}: {error})",
            "the yaml beside a checkpoint has the form of v1-inference.yaml",
            "remove it, or fetch the one that belongs to the checkpoint",
        ) from error
