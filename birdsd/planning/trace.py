"""Traces what a step of a method takes, without weights, images or memory.

The method's own code builds its networks and runs forward and backward on fake tensors, which have a shape
and a dtype but no storage, while `LiveTensors` counts live bytes and torch's flop counter operations. Where
the model is not on this machine yet, its preset gives the shapes.
"""

from __future__ import annotations

import copy
import gc
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import nn

from birdsd.diffusion.learning.common import codec_of
from birdsd.diffusion.networks import models
from birdsd.diffusion.networks.tokenizer import train_tokenizer
from birdsd.errors import Unsupported, UserError
from birdsd.files import read_json, write_json
from birdsd.method_facts import facts_of
from birdsd.sound.codec.protocol import image_shape
from birdsd.training.devices.precision import DTYPES

if TYPE_CHECKING:
    from birdsd.diffusion.learning.base import LearningMethod, Modules
    from birdsd.schema import TrainConfig
    from birdsd.shards.index import ShardIndex

VERSION = 5  # of the traces, for those who keep them


@dataclass(frozen=True)
class Step:
    """What one micro-batch of training takes on one device, in bytes and floating-point operations.

    `activations` is the peak of forward and backward besides weights and gradients: saved tensors,
    low-precision copies of weights, the batch. `learning` counts trainable parameters, `frozen_bytes` the
    frozen parts of the learner, the text encoder and the autoencoder.
    """

    micro_batch: int
    learning: int
    frozen_bytes: int
    activations: int
    flops: int
    largest: int = 0  # of the parameters that learn


@dataclass(frozen=True)
class Encoding:
    """What autoencoder and text encoder take while they encode, in bytes."""

    vae_bytes: int
    text_bytes: int
    latent_bytes: int  # of one sample, stored
    text_row_bytes: int  # of one caption, stored
    encode_activations: int  # pictures -> latents, as many as are encoded together

    @property
    def device_bytes(self) -> int:
        """The most on the device: the two work one after the other, and both stay until all is made."""
        return self.vae_bytes + self.encode_activations + self.text_bytes


# -- the networks, without weights ------------------------------------------------------------------------


def hollow_networks(config: TrainConfig, codec: dict[str, Any]) -> Any:
    """The four networks of `config`, with the shapes of its source's folder, else of its preset."""
    model = config.model
    vae = _vae(config)
    size = models.latent_size(vae.config, int(codec["bands"]), int(codec["frames"]))
    captions = ["a bird singing", "no bird", "an American Robin singing in a quiet forest"]
    tokenizer = train_tokenizer(captions, model.vocabulary_size, model.max_tokens)
    settings = config_of(model.source, "text_encoder")
    if settings is not None:
        from transformers import CLIPTextConfig, CLIPTextModel

        text: Any = CLIPTextModel(CLIPTextConfig(**settings))
        tokenizer.model_max_length = min(tokenizer.model_max_length, int(text.config.max_position_embeddings))
    else:
        text = models.build_text_encoder(
            model.text, vocabulary=model.vocabulary_size, max_tokens=model.max_tokens, seed=0
        )
    settings = config_of(model.source, "unet")
    if settings is not None:
        from diffusers import UNet2DConditionModel

        unet: Any = UNet2DConditionModel.from_config(settings)
    else:
        unet = models.build_unet(
            model.unet,
            latent_channels=vae.config.latent_channels,
            sample_size=size,
            context_width=text.config.hidden_size,
        )
    return SimpleNamespace(unet=unet, text_encoder=text, tokenizer=tokenizer, vae=vae)


def _vae(config: TrainConfig) -> Any:
    for source in (config.model.autoencoder, config.model.source):
        if (settings := config_of(source, "vae")) is not None:
            from diffusers import AutoencoderKL

            return AutoencoderKL.from_config(settings)
    return models.build_vae(config.model.vae)


def config_of(source: str | None, part: str) -> dict[str, Any] | None:
    """The config.json of a part that is on this machine; None otherwise."""
    if not source or not Path(source).expanduser().exists():
        return None
    try:
        folder, sub = models.locate(source, part)
    except UserError:
        return None
    return dict(read_json(Path(folder) / (sub or "") / "config.json"))


@contextmanager
def stand_ins(config: TrainConfig, codec: dict[str, Any]) -> Iterator[tuple[TrainConfig, ShardIndex]]:
    """`config` and shards that its method can be built on, with stand-ins for what is missing on this
    machine: an image of each species (of two where none are known), and a folder for a model that would
    be downloaded."""
    from birdsd.shards.index import ShardIndex
    from birdsd.shards.storage.writer import ShardWriter

    config = copy.deepcopy(config)
    with tempfile.TemporaryDirectory(prefix="birdsd-plan-") as name:
        folder = Path(name)
        (folder / "shards").mkdir()
        write_json(folder / "shards" / "codec.json", codec)
        blank = np.zeros(image_shape(codec), np.uint8)
        with ShardWriter(folder / "shards" / "train-000000.tar") as writer:
            for number, species in enumerate(_species(config)):
                facts: dict[str, Any] = {"key": f"{number}", "species": [species]}
                facts |= {"captions": [f"a {species} singing"], "recording_id": f"{number}"}
                facts |= {"licence": "", "recordist": "", "synthetic": True}
                writer.write(f"{number:04d}", {"npy": blank, "json": facts})
        if config.model.source is None or not Path(config.model.source).expanduser().exists():
            (folder / "model" / "scheduler").mkdir(parents=True)
            config.model.source = str(folder / "model")
        yield config, ShardIndex.open(folder / "shards")


def _species(config: TrainConfig) -> tuple[str, ...]:
    """The species of the shards, if they are here: textual inversion has tokens for each."""
    from birdsd.shards.index import ShardIndex

    place = config.data.shards
    names = ShardIndex.open(Path(place)).species if place and Path(place).exists() else ()
    return tuple(names) if len(names) > 1 else ("American Robin", "Eurasian Wren")


@contextmanager
def fake_tensors() -> Iterator[Any]:
    """A context in which tensors have shapes and dtypes but no storage; yields the mode."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    apply = nn.Module._apply
    nn.Module._apply = _converted  # type: ignore[method-assign]
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            yield mode
    finally:
        nn.Module._apply = apply  # type: ignore[method-assign]
    gc.collect()


def _converted(module: nn.Module, convert: Any, recurse: bool = True) -> nn.Module:
    """A `Module._apply` that replaces converted tensors: torch's own swaps fake tensors in place, which
    fails where something refers to them."""
    if recurse:
        for child in module.children():
            _converted(child, convert)
    with torch.no_grad():
        for name, value in module._parameters.items():
            if value is not None and (converted := convert(value)) is not value:
                module._parameters[name] = nn.Parameter(converted, value.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = convert(buffer)
    return module


# -- tracing ----------------------------------------------------------------------------------------------


def trace_step(
    config: TrainConfig,
    codec: dict[str, Any],
    micro_batch: int,
    precision: str = "fp32",
    *,
    low_precision_weights: bool = False,
    flops: bool = True,
) -> Step:
    """Trace one micro-batch of `config`'s method. With `low_precision_weights` trainable weights are held
    in `precision`, as in DeepSpeed; else in float32 under autocast, as in plain torch. Without `flops`
    none are counted, which takes half the time.

    `config.machine` decides on activation checkpointing and cached latents. Raises `UserError` for a method
    that trains nothing.
    """
    from torch._subclasses.fake_tensor import unset_fake_temporarily

    from birdsd.planning.live_tensors import LiveTensors

    dtype = DTYPES[precision]
    with stand_ins(config, codec) as (config, index), fake_tensors() as fake:
        method, parts = _built(config, index, dtype)
        learner = parts.learner
        if low_precision_weights:
            learner.to(dtype)
        learning = [p for p in learner.parameters() if p.requires_grad]
        for parameter in learning:
            parameter.grad = torch.zeros_like(parameter)
        live = LiveTensors()
        tensors = [*tensors_of(learner), *(p.grad for p in learning if p.grad is not None)]
        # The outputs of frozen networks are cached on disk, or the networks are loaded.
        for module in () if config.machine.cache_latents else parts.frozen.values():
            tensors += tensors_of(module)
        for tensor in tensors:
            live.hold(tensor)
        before = live.bytes
        with unset_fake_temporarily():  # values of tokens and images are inspected
            batch = _batch(method, parts, index, micro_batch, config.machine.cache_latents)

        def work() -> None:
            with torch.no_grad():  # as the loop does it, outside autocast
                ready = method.encode_batch(parts, batch)
            with _autocast(dtype):
                losses = learner(ready)
            losses.float().sum().backward()

        with fake, live:
            work()
        own = sum(p.numel() for p in learning)
        frozen = before - sum(p.nbytes + p.nbytes for p in learning)
        total = 0
        if flops:  # separately, since the counter's hooks keep activations alive
            with fake, counting() as counter:
                work()
            total = counter.get_total_flops()
        return Step(
            micro_batch, own, frozen, live.peak_bytes - before, total, max(p.numel() for p in learning)
        )


def trace_encoding(config: TrainConfig, codec: dict[str, Any], together: int) -> Encoding:
    """Trace the encoding of `together` images into latents, and of a text."""
    from birdsd.planning.live_tensors import LiveTensors

    with fake_tensors():
        networks = hollow_networks(config, codec)
        vae, text = networks.vae, networks.text_encoder
        live = LiveTensors()
        for tensor in (*tensors_of(vae), *tensors_of(text)):
            live.hold(tensor)
        before = live.bytes
        with live, torch.no_grad():
            pixels = torch.zeros(together, 3, int(codec["bands"]), int(codec["frames"]))
            moments = vae.encode(pixels).latent_dist.parameters
        row = int(text.config.max_position_embeddings) * int(text.config.hidden_size) * 2
        return Encoding(
            sum(t.nbytes for t in tensors_of(vae)),
            sum(t.nbytes for t in tensors_of(text)),
            moments[0].numel() * 2,
            row,
            live.peak_bytes - before,
        )


# -- its parts --------------------------------------------------------------------------------------------


def _built(config: TrainConfig, index: ShardIndex, dtype: torch.dtype) -> tuple[LearningMethod, Modules]:
    """The method and its parts, on hollow networks."""
    from birdsd.diffusion.methods import make_method

    facts = facts_of(config.method)
    if not facts.trains:
        raise Unsupported(
            f"method={facts.name} trains nothing",
            "it passes once over the pictures with CLIP's image tower",
            "plan the generation with it instead: birdsd plan generate ...",
        )
    facts.heaviest(config)
    method = cast("LearningMethod", make_method(config, index))
    method.stand_on(HollowNetworks(config, codec_of(index)))
    return method, method.build(torch.device("cpu"), dtype)


@dataclass
class HollowNetworks:
    """What a method stands on here; see `birdsd.diffusion.learning.base.Hollow`."""

    config: TrainConfig
    codec: dict[str, Any]

    def networks(self) -> Any:
        """UNet, text encoder, tokenizer and autoencoder."""
        from birdsd.diffusion.learning.denoising import Networks

        made = hollow_networks(self.config, self.codec)
        return Networks(
            lambda: made.unet, lambda: made.text_encoder, made.tokenizer, lambda: made.vae, made.vae.config
        )

    def text(self) -> tuple[Any, Any]:
        """The text encoder, and its tokenizer."""
        made = hollow_networks(self.config, self.codec)
        return made.text_encoder, made.tokenizer

    def image_tower(self) -> Any:
        """A CLIP with the shapes of its folder."""
        from transformers import CLIPConfig, CLIPModel

        from birdsd.diffusion.networks.clip import Clip, clip_place

        settings, _ = CLIPConfig.get_config_dict(clip_place(str(self.config.model.clip)))
        return Clip(CLIPModel(CLIPConfig(**settings)))


def _batch(
    method: LearningMethod, parts: Modules, index: ShardIndex, count: int, cached: bool
) -> dict[str, torch.Tensor]:
    from birdsd.shards.reader import ShardReader

    reader, examples = ShardReader(index, "train"), []
    for position in range(count):
        sample = reader.read(position % len(reader))
        if cached and (shape := method.stored_shape()) is not None:
            sample.latent = np.zeros(shape, np.float16)
        examples.append(method.make_example(parts, sample, position))
    method.pretend_made()
    return {key: torch.stack([example[key] for example in examples]) for key in examples[0]}


def tensors_of(module: nn.Module) -> list[torch.Tensor]:
    """Parameters and buffers."""
    return [*module.parameters(), *module.buffers()]


def counting() -> Any:
    """torch's counter of floating-point operations, which leaves out the attention kernel of CPUs."""
    from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

    forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward

    def forward_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return int(sdpa_flop_count(query, key, value))

    def backward_flops(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return int(sdpa_backward_flop_count(gradient, query, key, value))

    return FlopCounterMode(display=False, custom_mapping={forward: forward_flops, backward: backward_flops})


def _autocast(dtype: torch.dtype) -> Any:
    return torch.autocast("cpu", dtype) if dtype != torch.float32 else nullcontext()
