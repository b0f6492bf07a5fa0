"""What a training method hands to the loop: its modules, among them the one that learns, and the protocol.

A method knows nothing of ranks, engines or checkpoints; the loop knows nothing of noise or captions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from birdsd.shards.cache import StoredLatents
    from birdsd.shards.reader import Sample


class Learner(nn.Module):
    """Everything that learns, as one module, so that one GPU, many GPUs and ZeRO treat it alike.

    Its state is the parameters that require a gradient: a checkpoint holds neither buffers nor what is
    frozen, so both must be the same whenever the method is built.
    It must not draw random numbers (no dropout): what is random comes with the batch.
    """

    # What validation writes down beside the loss, by name, and what the last forward without gradients found
    # of each, float32 [B]; not finite where it cannot be said.
    measures: tuple[str, ...] = ()
    measured: Mapping[str, Tensor]

    # This many validations in a row without a lower loss end the run, and the best one is exported; 0: never.
    patience: int = 0

    def remark(self, means: Mapping[str, Any], position: int) -> str:
        """What the user should know of a validation at `position`, in one line; mostly nothing."""
        return ""

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """One loss per sample, float32, shape [B]; `batch` is what `LearningMethod.encode_batch` returned."""
        raise NotImplementedError

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations in backward: diffusers and transformers models know how."""
        for module in self.modules():
            switch = getattr(module, "enable_gradient_checkpointing", None) or getattr(
                module, "gradient_checkpointing_enable", None
            )
            if module is not self and callable(switch):
                switch()


class Frozen(Mapping[str, nn.Module]):
    """Networks that stay as they are, by name: loaded when first asked for, and let go when their work is
    done. `makers` give them ready for use; each must always make the same.
    """

    def __init__(self, makers: Mapping[str, Callable[[], nn.Module]]) -> None:
        self._makers = dict(makers)
        self._loaded: dict[str, nn.Module] = {}

    def __getitem__(self, name: str) -> nn.Module:
        if name not in self._loaded:
            self._loaded[name] = self._makers[name]()
        return self._loaded[name]

    def __contains__(self, name: object) -> bool:
        return name in self._makers  # the mapping's own would load it

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)

    @property
    def loaded(self) -> Iterable[nn.Module]:
        """Those that are in memory."""
        return self._loaded.values()

    def release(self) -> None:
        """Let all of them go; one that is asked for again is loaded again."""
        self._loaded.clear()


@dataclass
class Modules:
    """A built method: what learns, what stays as it is, and what turns pictures back into sound.

    What learns in `learner` is float32 whatever the precision: the engine casts. What is frozen, there
    and in `frozen` (whose modules are in eval mode), may be in the dtype given to `Method.build`.
    """

    learner: Learner
    frozen: Frozen = field(default_factory=lambda: Frozen({}))
    tokenizer: Any = None
    codec: Any = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    extras: dict[str, Any] = field(default_factory=dict)


Result = TypeVar("Result")
End = TypeVar("End", covariant=True)
GoesOn = Callable[[int, int], bool]  # (done, of how many) -> False where it is to stop


class Work(Protocol[End]):
    """A training run, as a method sees it: two ways to carry it out."""

    def loop(self, method: LearningMethod) -> End:
        """Step by step, with checkpoints: for methods that learn."""
        ...

    def once(self, make: Callable[[Path, torch.device, GoesOn], int | None]) -> End:
        """In one pass, by the first rank alone: `make(export folder, device, goes_on)` returns how many
        samples it saw, or None where `goes_on` told it to stop. Nothing is saved on the way."""
        ...


class Hollow(Protocol):
    """Networks without weights, shaped as a training's settings ask for, on which a step is traced."""

    def networks(self) -> Any:
        """UNet, text encoder, tokenizer and autoencoder: a `denoising.Networks`."""
        ...

    def text(self) -> tuple[Any, Any]:
        """A text encoder and its tokenizer."""
        ...

    def image_tower(self) -> Any:
        """The CLIP that model.clip names."""
        ...


class Method(Protocol):
    """What every method offers; made by the class that its facts name, with (config, index)."""

    def run(self, work: Work[Result]) -> Result:
        """Carry the training out: in one of the ways that `work` has."""
        ...


class LearningMethod(Method, Protocol):
    """A method that the loop trains. Those that subclass it write what has no body here, and the rest where
    they have something to do there."""

    def run(self, work: Work[Result]) -> Result:
        """By the loop."""
        return work.loop(self)

    def build(self, device: torch.device, dtype: torch.dtype) -> Modules:
        """Make or load the modules. The caller has seeded torch: every rank builds the same weights."""
        ...

    def setup(
        self, modules: Modules, share: Callable[[Sequence[int]], list[int]], alive: Callable[[], None]
    ) -> list[str]:
        """Called on every rank before training begins: make or measure what it needs. `share` chooses this
        rank's part of a list, `alive` keeps the watchdog quiet. Returns lines for the user to read.
        """
        return []

    def make_example(
        self, modules: Modules, sample: Sample, position: int, purpose: str = "train"
    ) -> dict[str, Tensor]:
        """CPU tensors of one sample, without the batch dimension; called in reader threads.

        All randomness of the sample is drawn here, from `generator(seed, purpose, position, ...)`:
        noise, timestep, caption choice, dropout, crop. `purpose` is "train" or "validation"; in
        validation the caption is not dropped, so that the loss is comparable from one to the next.
        The keys and shapes are the same for every sample: the loop stacks them to [B, ...].
        """
        ...

    def encode_batch(self, modules: Modules, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """On the device, without gradients: what the frozen modules compute from the stacked batch."""
        ...

    def fill_cache(
        self,
        device: torch.device,
        dtype: torch.dtype,
        splits: Sequence[str],
        share: Callable[[Sequence[int]], list[int]],
        alive: Callable[[], None],
        agree: Callable[[list[int]], list[int]] | None = None,
    ) -> object:
        """Called on every rank before `build` (machine.cache_latents): keep on disk what frozen networks
        make of these splits, this rank's share of what is missing, so that steps do without them. Nothing
        and None, for a method that has no such networks. `agree` gives all ranks the first one's numbers.
        """
        return None

    def cached_latents(self, split: str) -> StoredLatents | None:
        """What `Sample.latent` should be for each sample of a split, once that has been kept; None for a
        method that learns from the pictures themselves."""
        return None

    def preview(self, modules: Modules, prompts: Sequence[str], folder: Path) -> list[Path]:
        """Write pictures (.png) and sound (.wav) that show what has been learnt; return the paths."""
        ...

    def export(self, modules: Modules, folder: Path) -> Path:
        """Write what a user takes away (a diffusers pipeline folder with codec.json); return its path."""
        ...

    # -- for planning: a step is traced on fake tensors, which have shapes and no numbers -----------------

    def stand_on(self, hollow: Hollow) -> None:
        """Before `build`: take networks without weights instead of loading any."""

    def stored_shape(self) -> tuple[int, int, int] | None:
        """What `Sample.latent` is shaped like, once built; None where it learns from pictures."""
        return None

    def pretend_made(self) -> None:
        """Once built: as if all that `setup` makes had been made."""


class Kept(Protocol):
    """What a method keeps on disk."""

    @property
    def folder(self) -> Path: ...

    def size_bytes(self) -> int: ...


class CachingMethod(LearningMethod, Protocol):
    """A method whose facts say `caches`: `fill_cache` keeps what frozen networks make of the shards, and says
    what is there now."""

    pictures_made: int  # class images that `fill_cache` made here

    @property
    def caches(self) -> Kept:
        """Where it lies."""
        ...

    def pictures_missing(self) -> int:
        """Class images that are still to be made."""
        ...
