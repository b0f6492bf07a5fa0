"""method=clip: an image tower for your own text encoder, so that text and spectrograms can be compared.

The text tower of model.source stays as it is (locked-text tuning, LiT, arXiv 2111.07991, with the roles
exchanged: there the images are locked): the image tower, both projections and the temperature learn. The
loss of a sample is CLIP's image-to-text half with fixed candidates: the cross entropy of its picture against
one caption for every thing to be heard in the shards. CLIP itself takes the captions of the other samples in
the batch as candidates; then what a sample teaches would depend on the micro-batch and the number of GPUs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from birdsd.diffusion import export
from birdsd.diffusion.learning.base import Frozen, Hollow, Learner, LearningMethod, Modules
from birdsd.diffusion.learning.common import (
    codec_of,
    load_codec,
    picture_of,
    read,
    required_source,
    write_preview,
)
from birdsd.diffusion.networks import models
from birdsd.diffusion.networks.clip import Clip, build_clip, load_clip
from birdsd.diffusion.networks.models import evaluating
from birdsd.diffusion.networks.tokenizer import token_ids
from birdsd.diffusion.parameters import CLIP_PATCH, CLIP_PATCHES
from birdsd.errors import Mismatch, NothingLeft, listed_names
from birdsd.randomness import generator

if TYPE_CHECKING:
    from birdsd.schema import TrainConfig
    from birdsd.shards.index import ShardIndex
    from birdsd.shards.reader import Sample

_MOST_WORDINGS = 8  # of one thing to be heard
_LARGEST_LOGIT = float(np.log(100.0))  # CLIP's limit of its temperature
_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
_TOGETHER = 16  # pictures or texts a batch, where nothing is learnt
_SPLITS = ("train", "validation")
_MEASURED_SAMPLES = 256


class ClipLearner(Learner):
    """The image tower, both projections and the temperature.

    The batch: `image` float [B, 3, S, S] as the tower takes it, `label` int64 [B], and `wording` int64 [B],
    which of each label's captions to compare with.
    """

    texts: Tensor
    captions: Tensor

    def __init__(self, clip: Any, texts: Tensor, captions: Tensor) -> None:
        """`texts`: the frozen text tower's states at the end of each caption, [N, width]. `captions`:
        [labels, wordings], the number of each label's caption for each wording."""
        super().__init__()
        self.vision_model, self.visual_projection = clip.vision_model, clip.visual_projection
        self.text_projection = clip.text_projection
        self.logit_scale = nn.Parameter(clip.logit_scale.detach().reshape(1).clone())
        self.register_buffer("texts", texts, persistent=False)
        self.register_buffer("captions", captions, persistent=False)

    def logits(self, batch: dict[str, Tensor]) -> Tensor:
        """float32 [B, labels]: how well each label fits the picture."""
        states = self.vision_model(pixel_values=batch["image"]).pooler_output
        image = functional.normalize(self.visual_projection(states).float(), dim=-1)
        text = functional.normalize(self.text_projection(self.texts).float(), dim=-1)
        candidates = text[self.captions[:, batch["wording"]].T]
        scale = self.logit_scale.float().clamp(max=_LARGEST_LOGIT).exp()
        return scale * torch.einsum("bd,bld->bl", image, candidates)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """float32 [B]: cross entropy of the sample's own label, in nats."""
        return functional.cross_entropy(self.logits(batch), batch["label"], reduction="none")


class ClipMethod(LearningMethod):
    """See `birdsd.diffusion.learning.base.LearningMethod`."""

    def __init__(self, config: TrainConfig, index: ShardIndex) -> None:
        self.config, self.index = config, index
        self.codec = codec_of(index)
        required_source(config)
        self.wordings = _wordings(index)
        self.labels = {label: number for number, label in enumerate(self.wordings)}
        if len(self.labels) < 2:
            raise NothingLeft(
                f"all samples in {index.folder} have the same caption: {listed_names(self.labels)}",
                "a CLIP learns by telling captions apart",
                "take shards with at least two species",
            )

    def build(self, device: torch.device, dtype: torch.dtype) -> Modules:
        """The image tower of model.clip, or a new one as wide and deep as the text tower."""
        encoder, tokenizer = self.text()
        encoder.requires_grad_(False).to(device)
        made = self._clip(encoder, tokenizer)
        captions = sorted({text for texts in self.wordings.values() for text in texts})
        number = {text: at for at, text in enumerate(captions)}
        most = max(len(texts) for texts in self.wordings.values())
        table = [[number[texts[k % len(texts)]] for k in range(most)] for texts in self.wordings.values()]
        del made.model.text_model  # the frozen encoder stands in for it
        made.model.requires_grad_(True)
        learner = ClipLearner(
            made.model, text_states(encoder, tokenizer, captions), torch.tensor(table, dtype=torch.int64)
        )
        if self.config.machine.gradient_checkpointing:
            learner.enable_gradient_checkpointing()
        learner.vision_model.train()
        encoder.to("cpu")  # its work is done
        frozen = Frozen({"text_encoder": lambda: encoder})
        codec = load_codec(self.codec)
        return Modules(learner.to(device), frozen, tokenizer, codec, device, dtype, {"clip": made})

    def text(self) -> tuple[Any, Any]:
        """The text encoder, and its tokenizer, that pictures are to be told by."""
        return models.load_text(required_source(self.config))

    def stand_on(self, hollow: Hollow) -> None:
        """A text encoder without weights."""
        self.text = hollow.text  # type: ignore[method-assign]

    def _clip(self, encoder: Any, tokenizer: Any) -> Clip:
        given, text = self.config.model.clip, encoder.config
        if not given:
            vision = {name: getattr(text, name) for name in _SIZES}
            vision |= {"image_size": CLIP_PATCH * CLIP_PATCHES, "patch_size": CLIP_PATCH}
            return build_clip(encoder, tokenizer, vision, self.config.seed)
        loaded = load_clip(given)
        width = loaded.text_projection.shape[1]
        if width != text.hidden_size:
            raise Mismatch(
                f"the text tower of model.clip={given} is {width} wide",
                f"that of model.source={self.config.model.source}, which takes its place, is "
                f"{text.hidden_size} wide",
                "leave model.clip unset to begin with a new image tower, or name the CLIP of that text "
                "encoder",
            )
        return loaded

    def setup(
        self, modules: Modules, share: Callable[[Sequence[int]], list[int]], alive: Callable[[], None]
    ) -> list[str]:
        """Nothing is to be made; says what is told apart."""
        return [
            f"an image tower learns to tell {len(self.labels)} captions apart; the text tower stays as it is"
        ]

    def make_example(
        self, modules: Modules, sample: Sample, position: int, purpose: str = "train"
    ) -> dict[str, Tensor]:
        """The picture, its label, and which wordings it is compared with.

        In training the picture is turned round in time by a drawn number of frames: a bird sings the same
        song half a second later, and a few hundred pictures are learnt by heart otherwise.
        """
        draw = generator(self.config.seed, purpose, position, "clip")
        wording, shift = int(draw.integers(1 << 30)), int(draw.integers(self.codec["frames"]))
        image = picture_of(sample, self.codec)
        if purpose == "train":
            image = np.roll(image, shift, axis=-1)
        most = max(len(texts) for texts in self.wordings.values())
        return {
            "pixels": torch.from_numpy(np.ascontiguousarray(image)),
            # One whose metadata turns out to be broken only now gets no weight, whatever stands here.
            "label": torch.tensor(self.labels.get(_label(sample.metadata), 0), dtype=torch.int64),
            "wording": torch.tensor(wording % most, dtype=torch.int64),
        }

    def encode_batch(self, modules: Modules, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Squeeze the pictures into the tower's square."""
        image = modules.extras["clip"].prepared(batch["pixels"])
        return {"image": image, "label": batch["label"], "wording": batch["wording"]}

    def preview(self, modules: Modules, prompts: Sequence[str], folder: Path) -> list[Path]:
        """For each prompt the held-out picture that fits it best, with its sound."""
        split, numbers = self._held_out()
        pixels = torch.stack(
            [torch.from_numpy(picture_of(sample, self.codec)) for sample in read(self.index, split, numbers)]
        )
        learner: Any = modules.learner
        with torch.no_grad(), evaluating(learner):
            states = text_states(modules.frozen["text_encoder"], modules.tokenizer, prompts).to(
                modules.device
            )
            texts = functional.normalize(learner.text_projection(states), dim=-1)
            images = [self._features(modules, part.to(modules.device)) for part in pixels.split(_TOGETHER)]
            best = (texts @ functional.normalize(torch.cat(images), dim=-1).T).argmax(1).tolist()
        pictures = [modules.codec.to_rgb(pixels[number].numpy()) for number in best]
        names = [f"{number:02d}-{prompt}" for number, prompt in enumerate(prompts)]
        return write_preview(folder, pictures, pictures, names, modules.codec)

    def _held_out(self) -> tuple[str, list[int]]:
        split = "validation" if self.index.count("validation") else "train"
        total = self.index.count(split)
        count = min(total, _MEASURED_SAMPLES)
        return split, [number * total // count for number in range(count)]

    def _features(self, modules: Modules, pixels: Tensor) -> Tensor:
        learner: Any = modules.learner
        states = learner.vision_model(pixel_values=modules.extras["clip"].prepared(pixels)).pooler_output
        features: Tensor = learner.visual_projection(states)
        return features

    def named_right(self, modules: Modules) -> float:
        """The share of held-out pictures (training ones, where none is held out) whose own caption fits best
        of all, each compared with the canonical wordings."""
        split, numbers = self._held_out()
        right, seen = 0, 0
        with torch.no_grad(), evaluating(modules.learner):
            for start in range(0, len(numbers), _TOGETHER):
                samples = [s for s in read(self.index, split, numbers[start : start + _TOGETHER]) if s.weight]
                if not samples:
                    continue
                pixels = torch.stack([torch.from_numpy(picture_of(s, self.codec)) for s in samples])
                labels = torch.tensor([self.labels[_label(s.metadata)] for s in samples])
                batch = {"pixels": pixels, "label": labels, "wording": torch.zeros_like(labels)}
                there = {key: tensor.to(modules.device) for key, tensor in batch.items()}
                learner: Any = modules.learner
                found = learner.logits(self.encode_batch(modules, there)).argmax(1).cpu()
                right, seen = right + int((found == labels).sum()), seen + len(samples)
        return right / max(1, seen)

    def export(self, modules: Modules, folder: Path) -> Path:
        """Write a CLIPModel folder (float32 safetensors) with tokenizer, codec.json and other companions."""
        from birdsd.diffusion.networks.tokenizer import save_tokenizer

        learner: Any = modules.learner
        made: Clip = modules.extras["clip"]
        whole = build_clip(
            modules.frozen["text_encoder"],
            modules.tokenizer,
            made.model.config.vision_config.to_dict(),
            0,
            made.model.config.projection_dim,
        )
        for name in ("vision_model", "visual_projection", "text_projection"):
            getattr(whole.model, name).load_state_dict(getattr(learner, name).state_dict())
        with torch.no_grad():
            whole.model.logit_scale.copy_(learner.logit_scale.clamp(max=_LARGEST_LOGIT)[0])
        finished = Clip(whole.model, made.mean, made.std, made.resample)
        about = {
            "kind": "clip",
            "base": self.config.model.source,
            "method": self.config.method.name,
            "captions": list(self.labels),
            "held_out_named_right": round(self.named_right(modules), 4),
        }
        heard = export.training_set(self.index)

        def write(partial: Path) -> None:
            finished.save(partial)
            save_tokenizer(modules.tokenizer, partial)
            export.write_companions(partial, self.codec, heard, about)

        return export.write_folder(folder, write)


def text_states(encoder: Any, tokenizer: Any, texts: Sequence[str]) -> Tensor:
    """float32 [len(texts), width]: a text encoder's last state where each text ends."""
    device = next(encoder.parameters()).device
    rows = []
    with torch.no_grad():
        for start in range(0, len(texts), _TOGETHER):
            ids = token_ids(tokenizer, texts[start : start + _TOGETHER]).to(device)
            end = (ids == tokenizer.eos_token_id).int().argmax(1)
            rows.append(encoder(ids)[0][torch.arange(len(ids), device=device), end].float())
    return torch.cat(rows)


def _label(metadata: dict[str, Any]) -> str:
    """The canonical wording of what is to be heard: the first of a sample's captions."""
    from birdsd.sound.captions import prompt_for

    captions = metadata.get("captions") or []
    return str(captions[0]) if captions else prompt_for(list(metadata.get("species", [])))


def _wordings(index: ShardIndex) -> dict[str, list[str]]:
    """Every label of the shards with its captions, the canonical one first.

    Those of the validation split too, so that each of its samples can be judged.
    """
    from birdsd.shards.reader import ShardReader

    found: dict[str, set[str]] = {}
    for split in _SPLITS:
        if not index.count(split):
            continue
        reader = ShardReader(index, split, want=("metadata",))
        for number in range(len(reader)):
            sample = reader.read(number)
            metadata = sample.metadata
            if sample.weight:
                found.setdefault(_label(metadata), set()).update(metadata.get("captions") or [])
    kept = {}
    for label in sorted(found):
        others = sorted(found[label] - {label})
        count = min(len(others), _MOST_WORDINGS - 1)
        kept[label] = [label, *(others[number * len(others) // count] for number in range(count))]
    return kept
