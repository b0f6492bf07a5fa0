"""diffusers' own examples of each method, reduced to their core: what one step computes, and nothing else.

They follow examples/text_to_image, textual_inversion, dreambooth and autoencoderkl of diffusers, and the
aesthetic gradients extension of AUTOMATIC1111's web UI, on one device in float32. Their batches lie
ready-made in memory, which spares them what a loader costs.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass
class Ready:
    """Batches of the examples: pixels float32 [B, 3, H, W] in -1..1, and a caption for each picture."""

    pixels: list[Tensor]
    captions: list[list[str]]
    class_pixels: Tensor
    class_captions: list[str]


class Example:
    """The networks of a pipeline folder, and the step that the examples share."""

    rate = 1e-4

    def __init__(self, base: Path, ready: Ready) -> None:
        from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
        from transformers import CLIPTextModel, CLIPTokenizer

        def load(kind: Any, part: str) -> Any:
            return kind.from_pretrained(str(base), subfolder=part)

        self.scheduler = load(DDPMScheduler, "scheduler")
        self.tokenizer = load(CLIPTokenizer, "tokenizer")
        self.text = load(CLIPTextModel, "text_encoder")
        self.vae = load(AutoencoderKL, "vae")
        self.unet = load(UNet2DConditionModel, "unet")
        self.ready = ready
        for network in (self.text, self.vae, self.unet):
            network.requires_grad_(False)
        self.averages: Any = None
        self.learning = self.prepare()
        self.optimizer = torch.optim.AdamW(self.learning, lr=self.rate)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: 1.0)

    def prepare(self) -> list[Any]:
        """Set up what learns, and return its parameters."""
        raise NotImplementedError

    def tokens(self, captions: list[str]) -> Tensor:
        told = self.tokenizer(
            captions, padding="max_length", truncation=True, return_tensors="pt",
            max_length=self.tokenizer.model_max_length,
        )  # fmt: skip
        return told.input_ids

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        number = step % len(self.ready.pixels)
        return self.ready.pixels[number], self.tokens(self.ready.captions[number])

    def error(self, pixels: Tensor, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Squared error of every value, and the timesteps."""
        latents = self.vae.encode(pixels).latent_dist.sample() * self.vae.config.scaling_factor
        noise = torch.randn_like(latents)
        steps = torch.randint(0, self.scheduler.config.num_train_timesteps, (len(latents),))
        noisy = self.scheduler.add_noise(latents, noise, steps)
        context = self.text(input_ids, return_dict=False)[0]
        target = noise
        if self.scheduler.config.prediction_type == "v_prediction":
            target = self.scheduler.get_velocity(latents, noise, steps)
        guess = self.unet(noisy, steps, context, return_dict=False)[0]
        return F.mse_loss(guess.float(), target.float(), reduction="none"), steps

    def loss(self, step: int) -> Tensor:
        from diffusers.training_utils import compute_snr

        error, steps = self.error(*self.batch(step))
        snr = compute_snr(self.scheduler, steps)
        weights = torch.stack([snr, 5.0 * torch.ones_like(steps)], dim=1).min(dim=1)[0] / snr
        return (error.mean(dim=list(range(1, error.ndim))) * weights).mean()

    def after(self) -> None:
        """What an example does behind its step."""

    def steps(self) -> Iterator[float]:
        """Yields the loss of each step."""
        step = 0
        while True:
            loss = self.loss(step)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.learning, 1.0)
            self.optimizer.step()
            self.schedule.step()
            self.optimizer.zero_grad()
            self.after()
            if self.averages is not None:
                self.averages.step(self.learning)
            step += 1
            yield loss.item()


class Full(Example):
    """train_text_to_image.py --use_ema --snr_gamma=5."""

    def prepare(self) -> list[Any]:
        from diffusers.training_utils import EMAModel

        learning = list(self.unet.requires_grad_(True).train().parameters())
        self.averages = EMAModel(learning, decay=0.9999)
        return learning


class Lora(Example):
    """train_text_to_image_lora.py --snr_gamma=5."""

    rank = 16

    def prepare(self) -> list[Any]:
        from peft import LoraConfig

        self.unet.add_adapter(
            LoraConfig(
                r=self.rank, lora_alpha=self.rank, init_lora_weights="gaussian",
                target_modules=["to_k", "to_q", "to_v", "to_out.0"],
            )
        )  # fmt: skip
        return [p for p in self.unet.parameters() if p.requires_grad]


class TextualInversion(Example):
    """textual_inversion.py: AdamW over the whole table of embeddings, whose old rows are put back after each
    step."""

    rate = 5e-4
    vectors = 16

    def prepare(self) -> list[Any]:
        names = sorted({caption for batch in self.ready.captions for caption in batch})
        words = [[f"<{number}>_{k}" for k in range(self.vectors)] for number, _ in enumerate(names)]
        self.tokenizer.add_tokens([word for group in words for word in group])
        self.text.resize_token_embeddings(len(self.tokenizer), mean_resizing=False)
        self.said = dict(zip(names, (" ".join(group) for group in words), strict=True))
        table = self.text.get_input_embeddings()
        table.weight.requires_grad_(True)
        count = len(names) * self.vectors
        self.old_rows = torch.ones(len(table.weight), dtype=torch.bool)
        self.old_rows[-count:] = False
        self.before = table.weight.data.clone()
        return [table.weight]

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        number = step % len(self.ready.pixels)
        captions = [self.said[caption] for caption in self.ready.captions[number]]
        return self.ready.pixels[number], self.tokens(captions)

    def loss(self, step: int) -> Tensor:
        return self.error(*self.batch(step))[0].mean()

    def after(self) -> None:
        with torch.no_grad():
            self.text.get_input_embeddings().weight[self.old_rows] = self.before[self.old_rows]


class _Prior:
    """--with_prior_preservation: samples and class pictures as one batch, and a loss for each half."""

    ready: Ready

    def loss(self: Any, step: int) -> Tensor:
        pixels, input_ids = self.batch(step)
        count = len(pixels)
        both = torch.cat([pixels, self.ready.class_pixels[:count]])
        ids = torch.cat([input_ids, self.tokens(self.ready.class_captions[:count])])
        own, prior = torch.chunk(self.error(both, ids)[0], 2)
        total: Tensor = own.mean() + 1.0 * prior.mean()
        return total


class DreamBoothLora(_Prior, Lora):
    """train_dreambooth_lora.py."""


class DreamBoothFull(_Prior, Example):
    """train_dreambooth.py --train_text_encoder."""

    def prepare(self) -> list[Any]:
        networks = (self.unet, self.text)
        return [p for network in networks for p in network.requires_grad_(True).train().parameters()]


class Autoencoder(Example):
    """train_autoencoderkl.py --use_ema, without its discriminator."""

    def prepare(self) -> list[Any]:
        from diffusers.training_utils import EMAModel

        del self.unet, self.text  # that example has none
        learning = list(self.vae.requires_grad_(True).train().parameters())
        self.averages = EMAModel(learning, decay=0.9999)
        return learning

    def loss(self, step: int) -> Tensor:
        pixels = self.ready.pixels[step % len(self.ready.pixels)]
        posterior = self.vae.encode(pixels).latent_dist
        made = self.vae.decode(posterior.sample()).sample
        kl = posterior.kl()
        total: Tensor = F.l1_loss(made, pixels) + 1e-6 * kl.sum() / kl.shape[0]
        return total


class AestheticGradients:
    """The web UI's extension: for each prompt a copy of the whole CLIP, whose text tower is tuned."""

    count, rate = 5, 1e-4

    def __init__(self, base: Path, clip: Any, target: Tensor) -> None:
        from transformers import CLIPTokenizer

        self.tokenizer = CLIPTokenizer.from_pretrained(str(base), subfolder="tokenizer")
        self.clip, self.target = clip, target

    def __call__(self, prompt: str) -> Tensor:
        """[1, n, width]: the conditioning of a prompt."""
        length = self.tokenizer.model_max_length
        told = self.tokenizer(prompt, padding="max_length", max_length=length, return_tensors="pt")
        target = self.target / self.target.norm(dim=-1, keepdim=True)
        with torch.enable_grad():
            model = copy.deepcopy(self.clip).requires_grad_(True)
            optimizer = torch.optim.Adam(model.text_model.parameters(), lr=self.rate)
            for _ in range(self.count):
                pooled = model.text_model(input_ids=told.input_ids).pooler_output
                made = model.text_projection(pooled)
                made = made / made.norm(dim=-1, keepdim=True)
                loss = -(made @ target.T).sum()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            states: Tensor = model.text_model(input_ids=told.input_ids).last_hidden_state.detach()
        return states


PEERS: dict[str, type[Example]] = {
    "full": Full,
    "lora": Lora,
    "textual_inversion": TextualInversion,
    "dreambooth on lora": DreamBoothLora,
    "dreambooth on full": DreamBoothFull,
    "autoencoder": Autoencoder,
}


def timed(steps: Iterator[float]) -> Iterator[float]:
    """Seconds a step."""
    while True:
        begin = time.perf_counter()
        next(steps)
        yield time.perf_counter() - begin
