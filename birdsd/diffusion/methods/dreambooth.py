"""method=dreambooth: a rare word for each species, and pictures of the model's own that keep what "a bird"
was (Ruiz et al. 2023, arXiv 2208.12242).

It stands on full fine-tuning or on LoRA. Each sample brings a class picture with it:
loss = error of the sample + prior_weight * error of the class picture, each under a noise and at a timestep
of its own. Both go through the UNet in one batch, samples first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from birdsd.diffusion.adapters import source_identity
from birdsd.diffusion.export import read_training
from birdsd.diffusion.generation.words import apply_words
from birdsd.diffusion.learning.base import Modules
from birdsd.diffusion.learning.class_images import ClassPictures, ClassRequest, Sampler, model_sampler
from birdsd.diffusion.learning.denoiser import STEPS, DenoisingLearner
from birdsd.diffusion.learning.denoising import DenoisingMethod, Networks, check_pretrained
from birdsd.diffusion.method_configs import DreamBoothConfig
from birdsd.diffusion.methods.full import FullMethod
from birdsd.diffusion.methods.lora import LoraMethod
from birdsd.diffusion.networks.models import evaluating
from birdsd.diffusion.networks.tokenizer import token_ids
from birdsd.errors import BadValue, Mismatch, NothingLeft, NotSet, unknown_name
from birdsd.method_facts import settings_of
from birdsd.randomness import generator, permutation
from birdsd.remarks import Remark
from birdsd.shards.balance import species_of
from birdsd.sound.captions import prompt_for, with_article

if TYPE_CHECKING:
    from birdsd.schema import TrainConfig
    from birdsd.shards.index import ShardIndex
    from birdsd.shards.reader import Sample

WORDS = ("rare", "class")
_MOMENTS_BYTES = 512 * 2**20
_CONSONANTS = "bcdfghjklmnpqrstvwxz"
_NOT_FOR_BIRDS = {"fck", "sht", "lsd", "kkk"}  # rare, but nobody's idea of a neutral word
_LARGE_VOCABULARY = 20_000  # a smaller tokenizer was made of the captions: it has no rare words


class PriorLearner(DenoisingLearner):
    """A `DenoisingLearner` whose batch may hold class pictures behind the samples: tensors of [2 B, ...], and
    `prior` float32 [B], what the error of each class picture counts.
    """

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """float32 [B]: the error of each sample + prior * the error of its class picture."""
        losses = super().forward(batch)
        if "prior" not in batch:
            return losses
        instance, own = losses.chunk(2)
        return instance + batch["prior"] * own


class DreamBooth(DenoisingMethod):
    """What both forms share; put before the method that says which weights learn."""

    def __init__(self, config: TrainConfig, index: ShardIndex) -> None:
        method = settings_of(config.method, DreamBoothConfig)
        check_pretrained(config)
        if method.word not in WORDS:
            raise unknown_name("method.word", method.word, WORDS)
        if not method.class_word.strip():
            raise NotSet("method.class_word is empty", "it says what a species is", "method.class_word=bird")
        if not (np.isfinite(method.prior_weight) and method.prior_weight >= 0):
            raise BadValue(
                f"method.prior_weight={method.prior_weight}",
                "it is what the class pictures' error counts beside the samples', so 0 or more",
                "1 is the paper's; 0 turns them off",
            )
        if method.class_samples < 0:
            raise BadValue(
                f"method.class_samples={method.class_samples}",
                "it is a number of pictures",
                "take 100, or 0 for none",
            )
        super().__init__(config, index)
        self.species = species_of(index, "train")
        if not self.species:
            raise NothingLeft(
                f"the shards in {index.folder} name no species",
                "DreamBooth binds a word to each",
                "label the recordings and prepare them again, or take method=lora",
            )
        base = base_facts(str(config.model.source))
        self._known = tuple(sorted(str(name) for name in base.get("species") or ()))
        # Words that the model was taught before stay what they were.
        taught_words = base.get("words") or {}
        self._words = {
            str(name): str(word) for name, word in taught_words.items() if name not in self.species
        }
        self._moments_of: OrderedDict[int, Tensor] = OrderedDict()
        self.request = ClassRequest(
            base=source_identity(str(config.model.source)) if self.keeps_prior else "",
            prompts=tuple(method.class_prompts) or self._class_prompts(),
            seed=config.seed,
            steps=method.class_steps,
            guidance=method.class_guidance,
            height=int(self.codec["bands"]),
            width=int(self.codec["frames"]),
        )
        self.pictures = ClassPictures(index.folder, self.request, method.class_samples)

    @property
    def booth(self) -> DreamBoothConfig:
        """The section `method`, which what it stands on has settings in too."""
        return settings_of(self.config.method, DreamBoothConfig)

    @property
    def keeps_prior(self) -> bool:
        """Whether there are class pictures at all."""
        return self.booth.class_samples > 0 and self.booth.prior_weight > 0

    def _class_prompts(self) -> tuple[str, ...]:
        """ "a bird", and each species that the model was trained on and is not taught now: a model of birdsd
        knows birds by their names only, and would forget them one by one."""
        others = [
            apply_words(prompt_for(name), self._words) for name in self._known if name not in self.species
        ]
        return with_article(self.booth.class_word.strip()), *others

    # -- the words ----------------------------------------------------------------------------------

    def learner(self, networks: Networks, dtype: torch.dtype) -> DenoisingLearner:
        """The method's own, with the second half of the loss."""
        plain = super().learner(networks, dtype)
        return PriorLearner(plain.unet, plain.text_encoder, plain.denoising) if self.keeps_prior else plain

    def name_words(self, tokenizer: Any) -> None:
        """A rare one for each species."""
        if self.booth.word == "rare":
            kind = self.booth.class_word.strip()
            others = {name: word for name, word in self._words.items() if name not in self.species}
            rare = rare_words(tokenizer, self.species, [*self._known, *others.values()])
            own = {name: f"{word} {kind}" for name, word in zip(self.species, rare, strict=True)}
            self._words = {**others, **own}

    def further_texts(self) -> Sequence[str]:
        """What the class pictures were asked to show."""
        return self.request.prompts if self.keeps_prior else ()

    def words(self, modules: Modules) -> dict[str, str]:
        """Species -> "zxq bird"; nothing where the species keep their names."""
        return dict(self._words)

    def wording(self, modules: Modules, text: str) -> str:
        """Species become their rare words."""
        return apply_words(text, self._words)

    def about(self, modules: Modules) -> dict[str, Any]:
        """The words, and what kept the class as it was."""
        method = self.booth
        kept = {"prior_weight": method.prior_weight, "class_samples": method.class_samples}
        return {
            **super().about(modules),
            "base_method": method.base_method,
            "words": self.words(modules),
            "class_prompts": list(self.request.prompts),
            **(kept if self.keeps_prior else {"prior_weight": 0.0, "class_samples": 0}),
        }

    # -- the class pictures -------------------------------------------------------------------------

    def setup(
        self, modules: Modules, share: Callable[[Sequence[int]], list[int]], alive: Callable[[], None]
    ) -> list[str]:
        """Make what is missing (see `make_missing`); says which words are taught."""
        lines = super().setup(modules, share, alive)
        own = {name: word for name, word in self._words.items() if name in self.species}
        if own:
            shown = [f"{name} = '{word}'" for name, word in list(own.items())[:3]]
            lines.insert(1, f"words: {', '.join(shown)}{', ...' if len(own) > 3 else ''}")
        return lines

    def make_missing(
        self, modules: Modules, share: Callable[[Sequence[int]], list[int]], alive: Callable[[], None]
    ) -> list[str]:
        """The class pictures that are missing and their latents, each rank its share. The learner must still
        be the model that it starts from; without one, that model is built where a picture is to be made.
        """
        lines = super().make_missing(modules, share, alive)
        if not self.keeps_prior:
            return [*lines, Remark("no class pictures: nothing preserves what the model knew", "no-prior")]
        self.pictures_made = made = self.pictures.make(self._sampler(modules), share, alive)
        if self.caches.use_disk:
            for number in self.pictures.shared(share):
                alive()
                self._moments_kept(modules, number)
        first, *more = self.request.prompts
        asked = f"'{first}'" + (f" and {len(more)} more prompts" if more else "")
        text = f"{self.pictures.count} class pictures of {asked} ({made} made just now)"
        facts = {"pictures": self.pictures.count, "prompts": self.request.prompts, "made": made}
        return [*lines, Remark(text, "class-pictures", **facts)]

    def _sampler(self, modules: Modules) -> Sampler:
        """The model's own pictures; its networks are loaded where there is one to make."""
        built = [modules] if hasattr(modules.learner, "unet") else []
        scheduler = self.denoising.scheduler_config()

        def sample(numbers: Sequence[int], tick: Callable[[], object]) -> np.ndarray:
            if not built:
                built.append(self.build(modules.device, modules.dtype))
            model: Any = built[0]
            model.learner.to(model.device)
            sampler = model_sampler(
                self.request,
                unet=model.learner.unet,
                vae=model.frozen["vae"],
                text_encoder=self.text_encoder(model),
                tokenizer=model.tokenizer,
                scheduler=scheduler,
                latent_shape=self.latent_shape,
                device=model.device,
                dtype=model.dtype,
            )
            with evaluating(model.learner):
                return sampler(numbers, tick)

        return sample

    def pictures_missing(self) -> int:
        """Class pictures that are not there yet."""
        count = self.pictures.count if self.keeps_prior else 0
        return sum(not self.pictures.path(number).is_file() for number in range(count))

    def make_example(
        self, modules: Modules, sample: Sample, position: int, purpose: str = "train"
    ) -> dict[str, Tensor]:
        """The sample's tensors; in training with those of a class picture, drawn by a key of their own.

        In validation there is none, so that its loss compares with other methods'.
        """
        tensors = super().make_example(modules, sample, position, purpose)
        if not self.keeps_prior or purpose != "train":
            return tensors
        draw = generator(self.config.seed, purpose, position, "prior")
        number, step = int(draw.integers(self.pictures.count)), int(draw.integers(STEPS))
        dropped = draw.random() < self.caption_dropout
        posterior, noise = draw.standard_normal((2, *self.latent_shape), dtype=np.float32)
        return {
            **tensors,
            "class_number": torch.tensor(number),
            "class_input_ids": token_ids(modules.tokenizer, ["" if dropped else self.request.prompt(number)])[
                0
            ],
            "class_timesteps": torch.tensor(step, dtype=torch.int64),
            "class_posterior_noise": torch.from_numpy(posterior),
            "class_noise": torch.from_numpy(noise),
        }

    def encode_batch(self, modules: Modules, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The samples made ready, and behind them their class pictures."""
        ready = super().encode_batch(modules, batch)
        if "class_number" not in batch:
            return ready
        moments = torch.stack(list(self._class_moments(modules, batch["class_number"]))).to(modules.device)
        names = ("input_ids", "timesteps", "posterior_noise", "noise")
        own = super().encode_batch(
            modules, {"moments": moments, **{name: batch[f"class_{name}"] for name in names}}
        )
        joined = {key: torch.cat([tensor, own[key]]) for key, tensor in ready.items()}
        count = len(batch["class_number"])
        joined["prior"] = torch.full((count,), float(self.booth.prior_weight), device=modules.device)
        return joined

    def _class_moments(self, modules: Modules, numbers: Tensor) -> Iterator[Tensor]:
        """float16 [2 C, h, w] of each class picture, encoded once and by itself (see `Caches`)."""
        for number in numbers.tolist():
            moments = self._moments_of.get(number)
            if moments is None:
                moments = self._moments_of[number] = self._moments_kept(modules, number)
                if len(self._moments_of) * moments.numel() * 2 > _MOMENTS_BYTES:
                    self._moments_of.popitem(last=False)
            else:
                self._moments_of.move_to_end(number)
            yield moments

    def pretend_made(self) -> None:
        """Class images, encoded."""
        for number in range(self.pictures.count if self.keeps_prior else 0):
            self._moments_of[number] = torch.zeros(self.stored_shape(), dtype=torch.float16)

    def _moments_kept(self, modules: Modules, number: int) -> Tensor:
        picture = partial(self.pictures.read, number)
        return self.caches.picture_moments(modules, self.pictures.path(number), picture)


class DreamBoothOnLora(DreamBooth, LoraMethod):
    """Small low-rank updates learn."""


class DreamBoothOnFull(DreamBooth, FullMethod):
    """The UNet learns, and the text encoder if asked."""


def base_facts(source: str) -> dict[str, Any]:
    """What a model source says of its training: species, words; {} for a model from elsewhere."""
    folder = Path(source).expanduser()
    return read_training(folder / "export" if (folder / "export").is_dir() else folder)


def rare_words(tokenizer: Any, species: Sequence[str], others: Sequence[str] = ()) -> list[str]:
    """A word for each species that means nothing yet: three consonants; the same for the same tokenizer.

    In CLIP's large vocabulary words of one token, from the end of its list, which goes from common to rare.
    A small one, made from captions, has no such word: there they are of several tokens, none of which
    stands for a word. No word occurs in a species' name, nor in one of `others`.
    """
    vocabulary = tokenizer.get_vocab()
    taken = {word for name in (*species, *others) for word in name.lower().split()}
    found: list[str] = []
    if tokenizer.vocab_size >= _LARGE_VOCABULARY:
        rare = sorted(vocabulary, key=lambda token: -vocabulary[token])[: tokenizer.vocab_size // 2]
        words = [token.removesuffix("</w>") for token in rare if token.endswith("</w>")]
        found = [word for word in words if len(word) == 3 and set(word) <= set(_CONSONANTS)]
    letters = len(_CONSONANTS)
    for number in permutation(letters**3, "rare words"):
        at = np.unravel_index(number, (letters, letters, letters))
        word = "".join(_CONSONANTS[int(place)] for place in at)
        if len(set(word)) == 3 and f"{word}</w>" not in vocabulary and word not in vocabulary:
            found.append(word)
    found = [word for word in dict.fromkeys(found) if word not in taken | _NOT_FOR_BIRDS]
    if len(found) < len(species):
        raise Mismatch(
            f"there are {len(species)} species and {len(found)} rare words",
            "each species needs its own word",
            "set method.word=class",
        )
    return found[: len(species)]
