"""What the networks of Stable Diffusion 1 are called in diffusers and in the original checkpoints ("ldm").

The originals are CompVis' latent-diffusion code and its v1-inference.yaml. The rules below hold for any
number of levels and layers, with and without attention; a part that has no place there is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from birdsd.diffusion.networks.finite import check_finite
from birdsd.errors import Mismatch, Unsupported

if TYPE_CHECKING:
    from torch import Tensor

PREFIXES = {
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "text_encoder": "cond_stage_model.transformer.",
}
POSITIONS = "text_model.embeddings.position_ids"

_UNET_TOP = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.attentions.0": "middle_block.1",
}
_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_RESNET = {
    "norm1": "norm1",
    "conv1": "conv1",
    "norm2": "norm2",
    "conv2": "conv2",
    "conv_shortcut": "nin_shortcut",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_VAE_TOP = {"conv_in": "conv_in", "conv_norm_out": "norm_out", "conv_out": "conv_out"}
_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
_VAE_MID = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")


def module_names(part: str, modules: Iterable[str]) -> dict[str, str]:
    """diffusers' name of every module of `part` ("unet", "vae", "text_encoder") -> its ldm name, without the
    part's prefix. A module that the original architecture does not know is a `UserError`.
    """
    wanted = list(modules)
    if part == "text_encoder":
        return {name: f"text_model.{name.removeprefix('text_model.')}" for name in wanted}
    rule = _unet_rule(wanted) if part == "unet" else _vae_rule(wanted)
    named = {name: rule(name) for name in wanted}
    if homeless := [name for name, there in named.items() if there is None]:
        raise Unsupported(
            f"the {part} has {homeless[0]}" + (f" and {len(homeless) - 1} more" if homeless[1:] else ""),
            "a single-file checkpoint knows the networks of Stable Diffusion 1 only, which have no such part",
            "export it as a diffusers folder",
        )
    return {name: str(there) for name, there in named.items()}


def _unet_rule(modules: list[str]) -> Any:
    blocks = [match for match in map(_BLOCK.match, modules) if match]
    resnets = {(m[2], m[4]) for m in blocks if m[1] == "down" and m[3] == "resnets"}
    counts = {sum(level == other for other, _ in resnets) for level, _ in resnets}
    if len(counts) > 1:
        raise Unsupported(
            f"the unet has levels of {' and '.join(map(str, sorted(counts)))} layers",
            "in a single-file checkpoint all levels have the same number",
            "export it as a diffusers folder",
        )
    per_level = max(counts, default=0) + 1  # the resampling takes a number as well
    attended = {m[2] for m in blocks if m[1] == "up" and m[3] == "attentions"}

    def rule(name: str) -> str | None:
        for ours, theirs in _UNET_TOP.items():
            if name == ours or name.startswith(ours + "."):
                return theirs + name[len(ours) :]
        if name.startswith("mid_block.resnets."):
            number, _, rest = name.removeprefix("mid_block.resnets.").partition(".")
            known = int(number) < 2 and rest in _UNET_RESNET
            return f"middle_block.{2 * int(number)}.{_UNET_RESNET[rest]}" if known else None
        match = _BLOCK.match(name)
        if match is None:
            return None
        way, level, kind, number, rest = match.groups()
        start = int(level) * per_level
        if kind == "downsamplers":
            return f"input_blocks.{start + per_level}.0.op" if rest == "conv" else None
        if kind == "upsamplers":
            place = f"output_blocks.{start + per_level - 1}.{2 if level in attended else 1}"
            return f"{place}.conv" if rest == "conv" else None
        place = f"input_blocks.{1 + start + int(number)}" if way == "down" else ""
        place = place or f"output_blocks.{start + int(number)}"
        if kind == "attentions":
            return f"{place}.1.{rest}"
        return f"{place}.0.{_UNET_RESNET[rest]}" if rest in _UNET_RESNET else None

    return rule


def _vae_rule(modules: list[str]) -> Any:
    levels = len({m[2] for m in (_BLOCK.match(n.removeprefix("decoder.")) for n in modules) if m})

    def inside(way: str, name: str) -> str | None:
        if name in _VAE_TOP:
            return _VAE_TOP[name]
        if match := _VAE_MID.fullmatch(name):
            kind, number, rest = match.groups()
            if kind == "attentions":
                return f"mid.attn_1.{_VAE_ATTENTION[rest]}" if rest in _VAE_ATTENTION else None
            return f"mid.block_{int(number) + 1}.{_VAE_RESNET[rest]}" if rest in _VAE_RESNET else None
        match = _BLOCK.fullmatch(name)
        if match is None:
            return None
        _, level, kind, number, rest = match.groups()
        # The original counts the decoder's levels from the finest one.
        place = f"down.{level}" if way == "encoder" else f"up.{levels - 1 - int(level)}"
        if kind in ("downsamplers", "upsamplers"):
            return f"{place}.{kind.removesuffix('rs')}.conv" if rest == "conv" else None
        return f"{place}.block.{number}.{_VAE_RESNET[rest]}" if rest in _VAE_RESNET else None

    def rule(name: str) -> str | None:
        if name in ("quant_conv", "post_quant_conv"):
            return name
        way, _, rest = name.partition(".")
        there = inside(way, rest) if way in ("encoder", "decoder") else None
        return f"{way}.{there}" if there else None

    return rule


def key_names(part: str, keys: Iterable[str]) -> dict[str, str]:
    """diffusers' name of every parameter of `part` -> its full name in a single-file checkpoint."""
    split = {key: key.rpartition(".") for key in keys}
    modules = module_names(part, dict.fromkeys(module for module, _, _ in split.values()))
    return {key: f"{PREFIXES[part]}{modules[module]}.{leaf}" for key, (module, _, leaf) in split.items()}


def _is_vae_attention(name: str) -> bool:
    return re.search(r"\.mid\.attn_1\.(q|k|v|proj_out)\.weight$", name) is not None


def to_ldm(states: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """{part: diffusers' state} -> the tensors of a single-file checkpoint, as views where possible.

    The autoencoder's attention is a 1x1 convolution there, [c, c, 1, 1]; the text encoder has a table of
    positions, int64 [1, n], that newer versions of transformers do not save.
    """
    import torch

    found: dict[str, Tensor] = {}
    for part, state in states.items():
        for key, name in key_names(part, (key for key in state if not key.endswith("position_ids"))).items():
            tensor = state[key]
            found[name] = tensor[:, :, None, None] if _is_vae_attention(name) else tensor
        if part == "text_encoder":
            table = next(t for key, t in state.items() if key.endswith("position_embedding.weight"))
            found[PREFIXES[part] + POSITIONS] = torch.arange(len(table))[None]
    return found


# What full checkpoints hold besides the three networks: the noise schedule, averages, losses, markers.
_OTHER = re.compile(
    r"(model_ema\.|loss\.|first_stage_model\.(loss|model_ema)|.*position_ids$|cond_stage_model\.logit_scale"
    r"|.*text_projection|(sqrt_|log_)?(one_minus_|recip_|recipm1_)?alphas_cumprod|betas$|alphas_cumprod"
    r"|posterior_|lvlb_weights|logvar|scale_factor|v_pred$|ztsnr$|global_step$)"
)


def from_ldm(
    tensors: Mapping[str, Tensor], wanted: Mapping[str, Mapping[str, tuple[int, ...]]], path: object
) -> dict[str, dict[str, Tensor]]:
    """The tensors of a single-file checkpoint -> {part: diffusers' state}, float32.

    `wanted`: {part: {diffusers' key: shape}}. Keys that are missing or too many and shapes that differ are
    a `UserError`; `path` is named in it.
    """
    names = {
        part: key_names(part, (k for k in shapes if not k.endswith("position_ids")))
        for part, shapes in wanted.items()
    }
    known = {_modern(name): tensor for name, tensor in tensors.items()}
    expected = {name for table in names.values() for name in table.values()}
    _check_keys(sorted(expected - known.keys()), path, "lacks", len(expected))
    unexpected = sorted(name for name in known.keys() - expected if not _OTHER.match(name))
    _check_keys(unexpected, path, "has unexpected", len(expected))
    states: dict[str, dict[str, Tensor]] = {}
    for part, table in names.items():
        states[part] = {}
        for key, name in table.items():
            tensor, shape = known[name], tuple(wanted[part][key])
            if _is_vae_attention(name):  # [c, c, 1, 1], and [c, c] or [c, c, 1] in files of other programs
                tensor = tensor.reshape(tensor.shape[:2])
            if tuple(tensor.shape) != shape:
                raise Mismatch(
                    f"{path}: {name} has the shape {list(tensor.shape)}",
                    f"the model of these settings has {list(shape)}",
                    "name the model with the file's own architecture with --base",
                )
            check_finite({name: tensor}, path)
            states[part][key] = tensor.float()
    return states


def _check_keys(names: list[str], path: object, what: str, total: int) -> None:
    if names:
        some = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if names[3:] else "")
        raise Mismatch(
            f"{path} {what} {some}",
            f"the model of these settings has {total} tensors, each under its own name",
            "fetch the file again, or name the model with the file's own architecture with --base",
        )


def _modern(name: str) -> str:
    """Some programs leave the text encoder's `text_model.` out."""
    prefix = PREFIXES["text_encoder"]
    if name.startswith(prefix) and not name.startswith(prefix + "text_model."):
        return f"{prefix}text_model.{name[len(prefix) :]}"
    return name
