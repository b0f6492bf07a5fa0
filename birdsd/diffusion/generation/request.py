"""What is asked of a model: every setting that decides a clip, and which clip of it all is the n-th."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any, NamedTuple

from birdsd.diffusion.generation import sampling
from birdsd.diffusion.generation.aesthetics import AestheticSettings
from birdsd.diffusion.generation.conditioning import Span, first_step
from birdsd.diffusion.generation.guidance import Guidance, check_guide_weight
from birdsd.errors import Mismatch, NotSet

USUAL_STRENGTH = 0.6  # of a whole clip; what lies in a masked stretch is made from nothing
USUAL_AESTHETIC_STEPS = 5
USUAL_GUIDE_WEIGHT = 2.0
_KNOWN_FROM_THE_START = 8  # fields of a request, of those in the first recipes


class Work(NamedTuple):
    """One clip of a request: the `nth` (from 0) of its prompt and seed."""

    prompt: str
    seed: int
    nth: int


@dataclass(frozen=True)
class Request:
    """What is asked for. Clip k of a prompt is a function of (prompt, seed, k) and the settings below.

    The names are those of `GenerateConfig`; None is "as usual". With `seeds` there are `count` clips of
    every prompt for each of them, and `seed` does not count.
    """

    prompts: tuple[str, ...]
    count: int = 1
    seed: int = 0
    steps: int = 25
    guidance: float = 3.0
    negative_prompt: str = ""
    scheduler: str = "ddim"
    batch_size: int = 8
    seeds: tuple[int, ...] = ()
    emphasis: bool = True
    init: str | None = None
    strength: float | None = None
    mask_start_s: float | None = None
    mask_end_s: float | None = None
    aesthetic_steps: int | None = None
    aesthetic_rate: float = 1e-4
    aesthetic_behaviour: str = "original"
    aesthetic_weight: float | None = None
    aesthetic_blend: str | None = None
    aesthetic_negative: bool | None = None
    aesthetic_text: str = ""
    aesthetic_name: str | None = None
    guidance_start: float = 0.0
    guidance_end: float = 1.0
    guidance_rescale: float = 0.0
    guide_weight: float | None = None  # None: there is no weaker model to lead away from
    loop: bool = False

    def __post_init__(self) -> None:
        sampling.check_request(self.steps, self.guidance, self.count, self.batch_size)
        self.led()
        if self.guide_weight is not None:
            check_guide_weight(self.guide_weight)
        if self.scheduler not in sampling.SCHEDULERS:
            sampling.make_scheduler(self.scheduler, {})
        if not self.prompts or not all(text.strip() for text in self.prompts):
            raise NotSet(
                "there is no prompt", "say what should sing", 'add prompt="an American Robin singing"'
            )
        for name in ("strength", "mask_start_s", "mask_end_s"):
            if not self.init and getattr(self, name) is not None:
                raise NotSet(
                    f"{name}={getattr(self, name)} without init",
                    "it says how much, or what, of a recording is regenerated",
                    "add init=RECORDING, or leave it out",
                )
        for name in ("init", "guide_weight"):
            if self.loop and getattr(self, name) is not None:
                raise Mismatch(
                    f"loop=true with {'guide' if name == 'guide_weight' else name}",
                    "a loop is made from noise, by one model, in windows that reach over its end",
                    "leave one of them out",
                )
        self.skipped_steps()
        self.aesthetics()

    @classmethod
    def of(cls, config: Any, recommended: Mapping[str, Any] | None = None) -> Request:
        """The request of a GenerateConfig, or of anything else with the same attributes. What it leaves open
        is as the model has `recommended`, else as usual."""
        given = {field.name: getattr(config, field.name) for field in fields(cls) if field.name != "prompts"}
        usual = {field.name: field.default for field in fields(cls)}
        for name, value in given.items():
            if value is None:
                given[name] = (recommended or {}).get(name, usual[name])
        if not config.guide and given["guide_weight"] is not None:
            raise NotSet(
                f"guide_weight={given['guide_weight']:g} without guide",
                "it says how far to go away from a weaker model",
                "add guide=RUN, guide=RUN@POSITION or guide=@POSITION (of the same run)",
            )
        if config.guide and given["guide_weight"] is None:
            given["guide_weight"] = USUAL_GUIDE_WEIGHT
        given["seeds"] = tuple(dict.fromkeys(given["seeds"]))
        return cls(tuple(dict.fromkeys(config.prompt)), **given)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Request:
        """The request that `to_json` described."""
        given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}
        return cls(**given)

    def to_json(self) -> dict[str, Any]:
        """As plain values. What the first recipes did not know is left out where it is as usual."""
        later = {field.name: field.default for field in fields(self)[_KNOWN_FROM_THE_START:]}
        chosen = {name: value for name, value in asdict(self).items() if value != later.get(name, MISSING)}
        plain: dict[str, Any] = json.loads(json.dumps(chosen))
        return plain

    # -- its clips -------------------------------------------------------------------------------

    @property
    def total(self) -> int:
        return len(self.prompts) * len(self.seeds or (self.seed,)) * self.count

    @property
    def batches(self) -> int:
        return -(-self.total // self.batch_size)

    def numbers_of(self, batch: int) -> range:
        """The clips that are computed together: what a recipe's bytes depend on."""
        first = batch * self.batch_size
        return range(first, min(first + self.batch_size, self.total))

    def work(self, number: int) -> Work:
        """Which clip the `number`-th is: prompt by prompt, seed by seed."""
        seeds = self.seeds or (self.seed,)
        rest, nth = divmod(number, self.count)
        prompt, seed = divmod(rest, len(seeds))
        return Work(self.prompts[prompt], seeds[seed], nth)

    def alone(self, number: int) -> Request:
        """What decides one clip, without the others (but for the last bits, which batches decide)."""
        work = self.work(number)
        return replace(self, prompts=(work.prompt,), seed=work.seed, seeds=(), count=1, batch_size=1)

    # -- what its settings mean --------------------------------------------------------------------

    def led(self) -> Guidance:
        """How predictions are led; `UserError` for what cannot be."""
        return Guidance(self.guidance, self.guidance_start, self.guidance_end, self.guidance_rescale)

    @property
    def is_masked(self) -> bool:
        return self.mask_start_s is not None or self.mask_end_s is not None

    def skipped_steps(self) -> int:
        """How many of the steps a start from a recording leaves out; `UserError` for a wrong strength."""
        if not self.init:
            return 0
        usual = 1.0 if self.is_masked else USUAL_STRENGTH
        return first_step(self.steps, usual if self.strength is None else self.strength)

    def span(self, clip_s: float) -> Span | None:
        """The stretch to make anew in clips of `clip_s`; None for all of it."""
        return Span.of(self.mask_start_s, self.mask_end_s, clip_s)

    def aesthetics(self) -> AestheticSettings:
        """How prompts are personalised where there is an aesthetic embedding."""
        return AestheticSettings.of(
            self.aesthetic_behaviour,
            steps=USUAL_AESTHETIC_STEPS if self.aesthetic_steps is None else self.aesthetic_steps,
            rate=self.aesthetic_rate,
            weight=self.aesthetic_weight,
            blend=self.aesthetic_blend,
            negative=self.aesthetic_negative,
            text=self.aesthetic_text,
        )
