"""How many parameters a method trains, from the names and shapes of tensors alone: no torch is imported here.

Names and shapes are those of diffusers and transformers, read from the headers of a model's files or, where
it is not on this machine, implied by a model preset's settings (`implied_shapes`: matrices and convolutions,
which are all but a few per cent of the parameters).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING, Any

from birdsd.diffusion.lora_targets import TARGETS, TEXT_ENCODER, TEXT_LAYERS
from birdsd.diffusion.method_configs import (
    ClassifierConfig,
    LoraConfig,
    TextualInversionConfig,
    UpscalerConfig,
    WeightsConfig,
)
from birdsd.method_facts import Shapes, find, settings_of

if TYPE_CHECKING:
    from birdsd.schema import TrainConfig

# The image tower that method=clip begins with: pixels along a patch's side, patches along the picture's.
CLIP_PATCH, CLIP_PATCHES = 16, 8
CLASSIFIER_WIDENING = (1, 2, 4, 4)  # channels of the stages of a classifier, as multiples of method.width
CLASSIFIER_STATISTICS = 11  # of each band, that go to a CNN's head
CLASSIFIER_BANDS, CLASSIFIER_ROWS = 64, 8  # that it hears, and that are left of them after the stages


def learning_count(config: TrainConfig, parts: Mapping[str, Shapes], species: int) -> int:
    """How many parameters `config.method` trains in a model with these tensors by part ("unet", "vae",
    "text_encoder", and "clip" where model.clip is at hand); `species` is how many the shards name. 0 for a
    method that trains nothing, and where `parts` lacks what would tell."""
    facts = find(config.method.name, config.method.form)
    return 0 if facts is None else facts.learning(config, parts, species)


# What methods say that they train: each with the parameters of `learning_count`.


def of_autoencoder(config: TrainConfig, parts: Mapping[str, Shapes], species: int) -> int:
    """All of the autoencoder."""
    return _count(parts.get("vae", {}))


def of_updates(config: TrainConfig, parts: Mapping[str, Shapes], species: int) -> int:
    """A LoRA of the layers in method.targets."""
    method = settings_of(config.method, LoraConfig)
    return _updates(parts, method.rank, method.targets)


def of_tokens(config: TrainConfig, parts: Mapping[str, Shapes], species: int) -> int:
    """The vectors of a new word for each species, or of one for them all."""
    method = settings_of(config.method, TextualInversionConfig)
    width = _text_width(parts.get(TEXT_ENCODER, {}))
    return width * method.vectors * (1 if method.tokens == "style" else species)


def of_image_tower(config: TrainConfig, parts: Mapping[str, Shapes], species: int) -> int:
    """An image tower, the two projections and the scale."""
    return _image_tower(parts)


def of_weights(config: TrainConfig, parts: Mapping[str, Shapes], species: int) -> int:
    """The weights of the UNet, and of the text encoder where it learns too, narrowed to method.learns."""
    method = settings_of(config.method, WeightsConfig)
    text = method.train_text_encoder or config.model.init == "scratch"
    return sum(
        prod(shape)
        for part in ("unet", *((TEXT_ENCODER,) if text else ()))
        for key, shape in parts.get(part, {}).items()
        if not method.learns or any(fnmatchcase(f"{part}.{key}", one) for one in method.learns)
    )


def of_upscaler(config: TrainConfig, parts: Mapping[str, Shapes], species: int) -> int:
    """The network; with an adversary also what makes its sharper set of weights, and the discriminator."""
    method = settings_of(config.method, UpscalerConfig)
    width, last = method.features, method.scale**2
    if method.architecture == "rrdb":
        dense = sum(
            _convolution(width + number * method.growth, width if number == 4 else method.growth)
            for number in range(5)
        )
        folded = (4 // method.scale) ** 2
        network = 3 * method.depth * dense + 4 * _convolution(width, width)
        network += _convolution(folded, width) + _convolution(width, 1)
    else:
        network = _convolution(1, width) + method.depth * _convolution(width, width)
        network += (method.depth + 1) * width + _convolution(width, last)
    if not method.adversary_weight:
        return network
    steps = [4, *(growth * method.adversary_channels for growth in (1, 2, 4))]
    judge = sum(to * (16 * of + 1) for of, to in pairwise(steps)) + 9 * steps[-1]
    return 2 * network + judge


def _convolution(of: int, to: int) -> int:
    """One of 3 x 3 with its bias."""
    return to * (9 * of + 1)


def of_classifier(config: TrainConfig, parts: Mapping[str, Shapes], species: int) -> int:
    """Of cnn and crnn: the stem, four stages, and the heads; what a backbone of another package has, nobody
    knows before it is there."""
    method = settings_of(config.method, ClassifierConfig)
    if method.network == "timm":
        return 0
    width, classes = method.width, len(method.classes) or species
    sizes = [width, *(width * factor for factor in CLASSIFIER_WIDENING)]
    total = 2 * 35 * width + 2 * width
    for of, to in pairwise(sizes):
        total += 9 * of * to + 9 * to * to + 4 * to + (of * to if of != to else 0)
    features = CLASSIFIER_ROWS * sizes[-1]
    if method.network == "cnn":
        return total + (2 * features + CLASSIFIER_STATISTICS * CLASSIFIER_BANDS) * classes + classes
    hidden = 2 * width  # of a direction, with three gates
    total += 2 * (3 * hidden * (features + hidden) + 6 * hidden)
    return total + 2 * (2 * hidden * classes) + classes


def of_nothing(config: TrainConfig, parts: Mapping[str, Shapes], species: int) -> int:
    """0: nothing is trained."""
    return 0


def _count(shapes: Shapes) -> int:
    return sum(prod(shape) for shape in shapes.values())


def _updates(parts: Mapping[str, Shapes], rank: int, targets: Sequence[str]) -> int:
    """A LoRA of a layer [out, in, ...] has matrices [rank, in, ...] and [out, rank]."""
    ends = {"unet": [layer for name in targets for layer in TARGETS.get(name, ())]}
    if TEXT_ENCODER in targets:
        ends[TEXT_ENCODER] = list(TEXT_LAYERS)
    return sum(
        rank * (shape[0] + prod(shape[1:]))
        for part, layers in ends.items()
        for name, shape in parts.get(part, {}).items()
        if name.endswith(tuple(f".{layer}.weight" for layer in layers))
    )


def _text_width(shapes: Shapes) -> int:
    """Of the table of tokens [vocabulary, width]."""
    return next((shape[1] for name, shape in shapes.items() if name.endswith("token_embedding.weight")), 0)


def _image_tower(parts: Mapping[str, Shapes]) -> int:
    """That of model.clip, or the one as wide and deep as the text encoder that training begins with; and the
    two projections and the scale."""
    if given := parts.get("clip"):
        return _count({name: shape for name, shape in given.items() if not name.startswith("text_model.")})
    text = parts.get(TEXT_ENCODER, {})
    width = _text_width(text)
    layers = _count({name: shape for name, shape in text.items() if ".encoder." in f".{name}"})
    # Patches, their positions and that of the class, its vector, two norms, two projections; and the scale.
    beside = 3 * CLIP_PATCH**2 + (CLIP_PATCHES**2 + 1) + 1 + 4 + 2 * width
    return layers + width * beside + 1 if width else 0


# -- what a preset implies --------------------------------------------------------------------------------


def implied_shapes(model: Any) -> dict[str, dict[str, Sequence[int]]]:
    """The matrices and convolutions by part that the settings of a model (a ModelConfig) imply."""
    unet, vae, text = (dict(section) for section in (model.unet, model.vae, model.text))
    width = int(text.get("hidden_size", 512))
    return {
        "unet": dict(_unet(unet, width, int(vae.get("latent_channels", 4)))),
        "vae": dict(_vae(vae)),
        TEXT_ENCODER: dict(_text(text, width, int(model.vocabulary_size), int(model.max_tokens))),
    }


Named = Iterator[tuple[str, Sequence[int]]]


def _text(given: Mapping[str, Any], width: int, vocabulary: int, tokens: int) -> Named:
    inner = int(given.get("intermediate_size", 4 * width))
    yield "text_model.embeddings.token_embedding.weight", (vocabulary, width)
    yield "text_model.embeddings.position_embedding.weight", (tokens, width)
    for number in range(int(given.get("num_hidden_layers", 12))):
        layer = f"text_model.encoder.layers.{number}"
        for name in TEXT_LAYERS:
            yield f"{layer}.self_attn.{name}.weight", (width, width)
        yield f"{layer}.mlp.fc1.weight", (inner, width)
        yield f"{layer}.mlp.fc2.weight", (width, inner)


def _resnet(name: str, of: int, to: int, time: int) -> Named:
    yield f"{name}.conv1.weight", (to, of, 3, 3)
    yield f"{name}.conv2.weight", (to, to, 3, 3)
    if time:
        yield f"{name}.time_emb_proj.weight", (to, time)
    if of != to:
        yield f"{name}.conv_shortcut.weight", (to, of, 1, 1)


def _transformer(name: str, size: int, context: int) -> Named:
    block = f"{name}.transformer_blocks.0"
    yield f"{name}.proj_in.weight", (size, size, 1, 1)
    for attention, of in (("attn1", size), ("attn2", context)):
        yield f"{block}.{attention}.to_q.weight", (size, size)
        yield f"{block}.{attention}.to_k.weight", (size, of)
        yield f"{block}.{attention}.to_v.weight", (size, of)
        yield f"{block}.{attention}.to_out.0.weight", (size, size)
    yield f"{block}.ff.net.0.proj.weight", (8 * size, size)
    yield f"{block}.ff.net.2.weight", (size, 4 * size)
    yield f"{name}.proj_out.weight", (size, size, 1, 1)


def _unet(given: Mapping[str, Any], context: int, latent_channels: int) -> Named:
    """A UNet2DConditionModel: convolutions, and a transformer block where a type says CrossAttn."""
    sizes = [int(size) for size in given.get("block_out_channels", (320, 640, 1280, 1280))]
    default = ["CrossAttnDownBlock2D"] * (len(sizes) - 1) + ["DownBlock2D"]
    attends = ["CrossAttn" in kind for kind in given.get("down_block_types") or default]
    layers, time = int(given.get("layers_per_block", 2)), 4 * sizes[0]
    yield "conv_in.weight", (sizes[0], latent_channels, 3, 3)
    yield "conv_out.weight", (latent_channels, sizes[0], 3, 3)
    yield "time_embedding.linear_1.weight", (time, sizes[0])
    yield "time_embedding.linear_2.weight", (time, time)
    if given.get("addition_embed_type") == "text":
        for name in ("k_proj", "q_proj", "v_proj"):
            yield f"add_embedding.pool.{name}.weight", (context, context)
        yield "add_embedding.proj.weight", (time, context)
    of = sizes[0]
    for number, (to, attention) in enumerate(zip(sizes, attends, strict=True)):
        block = f"down_blocks.{number}"
        for layer in range(layers):
            yield from _resnet(f"{block}.resnets.{layer}", of, to, time)
            if attention:
                yield from _transformer(f"{block}.attentions.{layer}", to, context)
            of = to
        if number < len(sizes) - 1:
            yield f"{block}.downsamplers.0.conv.weight", (to, to, 3, 3)
    for layer in range(2):
        yield from _resnet(f"mid_block.resnets.{layer}", of, of, time)
    yield from _transformer("mid_block.attentions.0", of, context)
    upwards = list(zip(sizes, attends, strict=True))[::-1]
    for number, (to, attention) in enumerate(upwards):
        block, below = f"up_blocks.{number}", upwards[min(number + 1, len(upwards) - 1)][0]
        for layer in range(layers + 1):
            skip = below if layer == layers else to
            yield from _resnet(f"{block}.resnets.{layer}", (of if layer == 0 else to) + skip, to, time)
            if attention:
                yield from _transformer(f"{block}.attentions.{layer}", to, context)
        of = to
        if number < len(upwards) - 1:
            yield f"{block}.upsamplers.0.conv.weight", (to, to, 3, 3)


def _vae(given: Mapping[str, Any]) -> Named:
    """An AutoencoderKL: the encoder, and a decoder with one resnet more a level."""
    sizes = [int(size) for size in given.get("block_out_channels", (64,))]
    layers, latent = int(given.get("layers_per_block", 1)), int(given.get("latent_channels", 4))
    last = sizes[-1]
    for half, order, count in (("encoder", sizes, layers), ("decoder", sizes[::-1], layers + 1)):
        down = half == "encoder"
        yield f"{half}.conv_in.weight", ((sizes[0], 3) if down else (last, latent)) + (3, 3)
        yield f"{half}.conv_out.weight", ((2 * latent, last) if down else (3, sizes[0])) + (3, 3)
        for layer in range(2):
            yield from _resnet(f"{half}.mid_block.resnets.{layer}", last, last, 0)
        if given.get("mid_block_add_attention", True):
            for name in ("to_q", "to_k", "to_v", "to_out.0"):
                yield f"{half}.mid_block.attentions.0.{name}.weight", (last, last)
        of = order[0]
        for number, to in enumerate(order):
            block = f"{half}.{'down' if down else 'up'}_blocks.{number}"
            for layer in range(count):
                yield from _resnet(f"{block}.resnets.{layer}", of if layer == 0 else to, to, 0)
            of = to
            if number < len(order) - 1:
                yield f"{block}.{'down' if down else 'up'}samplers.0.conv.weight", (to, to, 3, 3)
