"""DreamBooth's class pictures: what the model makes of "a bird", and of those that it knows by name, before
it is taught a special one.

Beside the shards, in class-FINGERPRINT/: 00000.png, 00001.png, ... without loss (JPEG blocks would be learnt
as sound), and facts.json, which says what they were made from. They are made once; what is missing or
damaged is made anew, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from birdsd.diffusion.generation import sampling
from birdsd.errors import Damaged, UserError
from birdsd.files import atomic_write, fingerprint, read_json, write_json
from birdsd.sharing import remove_leftovers

FORMAT = "birdsd-class-pictures-1"
FACTS_FILE = "facts.json"
# Pictures sampled in one batch. Fixed: the last bits of a picture depend on its neighbours, and it should
# come out the same in any world and after any kill. Small: with guidance it is twice as many in memory.
TOGETHER = 2

# (numbers, called at every step of the network) -> uint8 [len(numbers), height, width, 3]
Sampler = Callable[[Sequence[int], Callable[[], object]], np.ndarray]


@dataclass(frozen=True)
class ClassRequest:
    """What decides the pictures, apart from their number: picture k is the same in a set of any size."""

    base: str  # the fingerprint of the model that makes them
    prompts: tuple[str, ...]  # taken in turn
    seed: int
    steps: int
    guidance: float
    height: int
    width: int

    @property
    def fingerprint(self) -> str:
        """16 hex digits: the name of their folder."""
        return fingerprint(self.facts())

    def facts(self) -> dict[str, Any]:
        """What stands in facts.json."""
        return {"format": FORMAT, **asdict(self), "prompts": list(self.prompts)}

    def prompt(self, number: int) -> str:
        """What a picture was asked to show."""
        return self.prompts[number % len(self.prompts)]


class ClassPictures:
    """The first `count` pictures of a request, in a folder inside `parent`."""

    def __init__(self, parent: Path, request: ClassRequest, count: int) -> None:
        sampling.check_request(request.steps, request.guidance, max(1, count), 1)
        self.request, self.count = request, count
        self.folder = Path(parent) / f"class-{request.fingerprint}"

    def path(self, number: int) -> Path:
        """Where a picture lies."""
        return self.folder / f"{number:05d}.png"

    def read(self, number: int) -> np.ndarray:
        """uint8 [3, height, width]; `UserError` where the picture is missing or damaged."""
        picture, problem = self._load(number)
        if picture is None:
            raise Damaged(
                f"the class picture {self.path(number)} {problem}",
                "it was intact when the run started",
                "run the same command again to recreate it",
            )
        return picture

    def make(
        self,
        sampler: Sampler,
        share: Callable[[Sequence[int]], list[int]] = list,
        alive: Callable[[], object] = lambda: None,
    ) -> int:
        """Make this rank's share of what is missing or damaged, batch by batch; returns how many were made.

        `alive` is called at every step of the network. Killed anywhere, the next call goes on.
        """
        from tqdm import tqdm

        remove_leftovers(self.folder, alone=False)
        self._write_facts()
        batches = self._batches(share)
        missing: dict[int, list[int]] = {}
        for batch in batches:
            alive()
            gone = [number for number in self._numbers(batch) if self._load(number)[0] is None]
            if gone:
                missing[batch] = gone
        total = sum(map(len, missing.values()))
        with tqdm(total=total, desc="class pictures", unit="picture", disable=None if total else True) as bar:
            for batch, gone in missing.items():
                numbers = self._numbers(batch)  # whole batches, whatever of them is there
                made = sampler(numbers, alive)
                for number in gone:
                    self._write(number, made[numbers.index(number)])
                bar.update(len(gone))
        return total

    def shared(self, share: Callable[[Sequence[int]], list[int]]) -> list[int]:
        """The numbers of the pictures that `make` gives this rank."""
        return [number for batch in self._batches(share) for number in self._numbers(batch)]

    def _batches(self, share: Callable[[Sequence[int]], list[int]]) -> list[int]:
        return share(range(-(-self.count // TOGETHER)))

    def _numbers(self, batch: int) -> list[int]:
        return list(range(batch * TOGETHER, min((batch + 1) * TOGETHER, self.count)))

    def _write(self, number: int, picture: np.ndarray) -> None:
        from PIL import Image

        with atomic_write(self.path(number)) as stream:
            Image.fromarray(picture).save(stream, format="PNG")

    def _load(self, number: int) -> tuple[np.ndarray | None, str]:
        """The picture, or what is wrong with it."""
        from PIL import Image

        try:
            with Image.open(self.path(number), formats=("PNG",)) as image:
                image.verify()  # the checksum of every chunk
            with Image.open(self.path(number), formats=("PNG",)) as image:
                pixels = np.array(image)
        except FileNotFoundError:
            return None, "is missing"
        except Exception as error:  # PIL raises OSError, SyntaxError, ValueError, zlib.error, ...
            return None, f"is damaged ({error})"
        if pixels.shape != (self.request.height, self.request.width, 3) or pixels.dtype != np.uint8:
            return None, f"is {list(pixels.shape)}, not {[self.request.height, self.request.width, 3]}"
        return np.ascontiguousarray(pixels.transpose(2, 0, 1)), ""

    def _write_facts(self) -> None:
        facts = self.request.facts()
        path = self.folder / FACTS_FILE
        try:
            if read_json(path) == facts:
                return
        except UserError:
            pass
        write_json(path, facts)


def model_sampler(
    request: ClassRequest,
    *,
    unet: Any,
    vae: Any,
    text_encoder: Any,
    tokenizer: Any,
    scheduler: dict[str, Any],
    latent_shape: tuple[int, int, int],
    device: Any,
    dtype: Any,
) -> Sampler:
    """A sampler of a model's own pictures: DDIM under guidance, computed in `dtype`.

    Picture k starts from the noise of (seed, k), as clip k of `birdsd run generate` does.
    """
    import torch

    def sample(numbers: Sequence[int], tick: Callable[[], object]) -> np.ndarray:
        low = dtype != torch.float32
        with torch.no_grad(), torch.autocast(torch.device(device).type, dtype if low else None, enabled=low):
            context, negative = (
                sampling.encode_texts(text_encoder, tokenizer, texts).to(unet.dtype)
                for texts in ([request.prompt(number) for number in numbers], [""] * len(numbers))
            )
            latents = sampling.sample_latents(
                unet,
                sampling.make_scheduler("ddim", scheduler),
                context,
                negative,
                sampling.initial_noise(request.seed, numbers, latent_shape).to(device, unet.dtype),
                steps=request.steps,
                guidance=request.guidance,
                generators=[sampling.torch_generator(request.seed, "class", k) for k in numbers],
                progress=tick,
            )
        return sampling.decode_images(vae, latents.float())

    return sample
