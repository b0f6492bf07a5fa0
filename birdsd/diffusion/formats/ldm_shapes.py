"""Every tensor of a Stable Diffusion 1 checkpoint with its shape, told from the original code's structure.

This is written from how latent-diffusion builds its networks (openaimodel.UNetModel, model.Encoder and
Decoder, CLIP's text model), and shares nothing with the renaming in `ldm`: one checks the other. For
v1-inference.yaml it gives the 686 + 248 + 197 tensors of the published file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Shapes = dict[str, tuple[int, ...]]


def checkpoint(unet: Mapping[str, Any], vae: Mapping[str, Any], text: Mapping[str, Any]) -> Shapes:
    """Name -> shape for networks of these diffusers and transformers configurations."""
    found: Shapes = {}
    found.update(("model.diffusion_model." + name, shape) for name, shape in _unet(unet))
    found.update(("first_stage_model." + name, shape) for name, shape in _vae(vae))
    prefix = "cond_stage_model.transformer.text_model."
    found.update((prefix + name, shape) for name, shape in _text(text))
    return found


Named = Iterator[tuple[str, tuple[int, ...]]]


def _conv(name: str, into: int, out: int, kernel: int = 3) -> Named:
    yield f"{name}.weight", (out, into, kernel, kernel)
    yield f"{name}.bias", (out,)


def _linear(name: str, into: int, out: int, bias: bool = True) -> Named:
    yield f"{name}.weight", (out, into)
    if bias:
        yield f"{name}.bias", (out,)


def _norm(name: str, width: int) -> Named:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _unet(config: Mapping[str, Any]) -> Named:
    channels, layers = list(config["block_out_channels"]), int(config["layers_per_block"])
    attends = ["CrossAttn" in name for name in config["down_block_types"]]
    first, context = channels[0], int(config["cross_attention_dim"])
    flat = bool(config.get("use_linear_projection"))
    wide = 4 * first

    def residual(place: str, into: int, out: int) -> Named:
        yield from _norm(f"{place}.in_layers.0", into)
        yield from _conv(f"{place}.in_layers.2", into, out)
        yield from _linear(f"{place}.emb_layers.1", wide, out)
        yield from _norm(f"{place}.out_layers.0", out)
        yield from _conv(f"{place}.out_layers.3", out, out)
        if into != out:
            yield from _conv(f"{place}.skip_connection", into, out, 1)

    def transformer(place: str, width: int) -> Named:
        yield from _norm(f"{place}.norm", width)
        for end in ("proj_in", "proj_out"):
            yield from (_linear if flat else _point)(f"{place}.{end}", width, width)
        block = f"{place}.transformer_blocks.0"
        for number, source in ((1, width), (2, context)):
            yield from _linear(f"{block}.attn{number}.to_q", width, width, bias=False)
            yield from _linear(f"{block}.attn{number}.to_k", source, width, bias=False)
            yield from _linear(f"{block}.attn{number}.to_v", source, width, bias=False)
            yield from _linear(f"{block}.attn{number}.to_out.0", width, width)
        yield from _linear(f"{block}.ff.net.0.proj", width, 8 * width)  # GEGLU: values and gates
        yield from _linear(f"{block}.ff.net.2", 4 * width, width)
        for number in (1, 2, 3):
            yield from _norm(f"{block}.norm{number}", width)

    yield from _linear("time_embed.0", first, wide)
    yield from _linear("time_embed.2", wide, wide)
    yield from _conv("input_blocks.0.0", int(config["in_channels"]), first)
    skips, width, number = [first], first, 1
    for level, out in enumerate(channels):
        for _ in range(layers):
            yield from residual(f"input_blocks.{number}.0", width, out)
            if attends[level]:
                yield from transformer(f"input_blocks.{number}.1", out)
            skips.append(out)
            width, number = out, number + 1
        if level < len(channels) - 1:
            yield from _conv(f"input_blocks.{number}.0.op", width, width)
            skips.append(width)
            number += 1
    yield from residual("middle_block.0", width, width)
    yield from transformer("middle_block.1", width)
    yield from residual("middle_block.2", width, width)
    number = 0
    for level in reversed(range(len(channels))):
        for layer in range(layers + 1):
            yield from residual(f"output_blocks.{number}.0", width + skips.pop(), channels[level])
            width = channels[level]
            if attends[level]:
                yield from transformer(f"output_blocks.{number}.1", width)
            if level and layer == layers:
                yield from _conv(f"output_blocks.{number}.{2 if attends[level] else 1}.conv", width, width)
            number += 1
    yield from _norm("out.0", first)
    yield from _conv("out.2", first, int(config["out_channels"]))


def _point(name: str, into: int, out: int) -> Named:
    yield from _conv(name, into, out, 1)


def _vae(config: Mapping[str, Any]) -> Named:
    channels, layers = list(config["block_out_channels"]), int(config["layers_per_block"])
    latent, middle = int(config["latent_channels"]), channels[-1]
    attends = config.get("mid_block_add_attention", True)

    def residual(place: str, into: int, out: int) -> Named:
        yield from _norm(f"{place}.norm1", into)
        yield from _conv(f"{place}.conv1", into, out)
        yield from _norm(f"{place}.norm2", out)
        yield from _conv(f"{place}.conv2", out, out)
        if into != out:
            yield from _conv(f"{place}.nin_shortcut", into, out, 1)

    def centre(way: str) -> Named:
        yield from residual(f"{way}.mid.block_1", middle, middle)
        if attends:
            yield from _norm(f"{way}.mid.attn_1.norm", middle)
            for name in ("q", "k", "v", "proj_out"):
                yield from _conv(f"{way}.mid.attn_1.{name}", middle, middle, 1)
        yield from residual(f"{way}.mid.block_2", middle, middle)

    yield from _conv("encoder.conv_in", int(config["in_channels"]), channels[0])
    yield from _levels(residual, "encoder.down", channels, [channels[0], *channels[:-1]], layers)
    yield from centre("encoder")
    yield from _norm("encoder.norm_out", middle)
    yield from _conv("encoder.conv_out", middle, 2 * latent)
    yield from _conv("decoder.conv_in", latent, middle)
    yield from centre("decoder")
    yield from _levels(residual, "decoder.up", channels, [*channels[1:], middle], layers + 1)
    yield from _norm("decoder.norm_out", channels[0])
    yield from _conv("decoder.conv_out", channels[0], int(config["out_channels"]))
    if config.get("use_quant_conv", True):
        yield from _conv("quant_conv", 2 * latent, 2 * latent, 1)
    if config.get("use_post_quant_conv", True):
        yield from _conv("post_quant_conv", latent, latent, 1)


def _levels(residual: Any, place: str, outs: Sequence[int], ins: Sequence[int], layers: int) -> Named:
    """The levels of an encoder or decoder: all but the coarsest are sampled down, all but the finest up."""
    down = place.endswith("down")
    for level, (into, out) in enumerate(zip(ins, outs, strict=True)):
        for layer in range(layers):
            yield from residual(f"{place}.{level}.block.{layer}", out if layer else into, out)
        if down and level < len(outs) - 1:
            yield from _conv(f"{place}.{level}.downsample.conv", out, out)
        if not down and level > 0:
            yield from _conv(f"{place}.{level}.upsample.conv", out, out)


def _text(config: Mapping[str, Any]) -> Named:
    width, inner = int(config["hidden_size"]), int(config["intermediate_size"])
    places = int(config["max_position_embeddings"])
    yield "embeddings.position_ids", (1, places)
    yield "embeddings.token_embedding.weight", (int(config["vocab_size"]), width)
    yield "embeddings.position_embedding.weight", (places, width)
    for number in range(int(config["num_hidden_layers"])):
        layer = f"encoder.layers.{number}"
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            yield from _linear(f"{layer}.self_attn.{name}", width, width)
        yield from _norm(f"{layer}.layer_norm1", width)
        yield from _linear(f"{layer}.mlp.fc1", width, inner)
        yield from _linear(f"{layer}.mlp.fc2", inner, width)
        yield from _norm(f"{layer}.layer_norm2", width)
    yield from _norm("final_layer_norm", width)
