"""Stage 4: samples a second and MFU of three methods with cached latents, beside a bare diffusers loop in the
same process; where the time goes; and which ways of carrying out a step are the fastest."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from functools import partial
from itertools import islice
from typing import Any

import torch

from bench.gpu import _peak_flops
from bench.gpu_check.bare import BARE, Ways
from bench.gpu_check.course import Item
from bench.gpu_check.place import Place
from bench.gpu_check.settings import Settings
from bench.methods import WAYS
from birdsd.planning.trace import trace_step
from birdsd.training.devices.precision import choose_precision, release
from birdsd.training.engines.out_of_memory import is_out_of_memory

METHODS = ("full", "lora", "autoencoder")
ITEMS = (
    *(Item(method) for method in METHODS), Item("micro-batches"), Item("ways"), Item("compiled"),
)  # fmt: skip
REHEARSED = ("lora", "autoencoder", "micro-batches", "ways", "compiled")
# Samples at once: of the comparison, and those that are tried.
TOGETHER = {"full": 16, "lora": 16, "autoencoder": 4}
SIZES = (1, 4, 8, 16, 32, 64)
GOAL_MFU, GOAL_RATIO = 0.40, 1.0
# Kinds of kernels by their names, the first that fits.
KINDS = (
    ("attention", r"attention|flash|fmha|sdpa"),
    ("optimizer, average", r"adam|lerp|foreach|multi_tensor"),
    ("convolutions", r"conv|cudnn|winograd|implicit|dgrad|wgrad|fprop"),
    ("matrix products", r"gemm|matmul|addmm|\bmm\b|linear|cutlass|nvjet"),
    ("norms", r"norm"),
    ("copies, number formats", r"copy|cast|memcpy|memset|\bto\b|transpose|cat"),
)
OTHER = "element by element, and the rest"


def run(item: str, settings: Settings, limit_s: float) -> Iterator[dict[str, Any]]:
    """The rows of one item."""
    bench = Speed(settings)
    if item in METHODS:
        yield from bench.compared(item)
    elif item == "micro-batches":
        yield from bench.sizes()
    else:
        yield from bench.ways(compiled=item == "compiled")


class Speed:
    """Timings on one card."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        # As for a large card: nothing is recomputed, nothing offloaded.
        self.place = Place(settings, ("machine=auto", "machine.gradient_checkpointing=false"))
        self.place.encoded()
        self.precision = choose_precision("auto", self.place.device)
        self.peak = None if settings.cpu else _peak_flops(torch.cuda.get_device_name(0))
        self.warm_up, self.count = (0, 1) if settings.cpu else (4, 12)

    def settled(self, method: str, samples: int, *more: str) -> list[str]:
        """The settings of a training of `samples` at once."""
        words = [word for word in WAYS[method] if not word.startswith("optim.global_batch")]
        if method != "autoencoder":
            words += ["model.init=pretrained", f"model.source={self.place.base}"]
        return [*words, f"machine.micro_batch={samples}", f"optim.global_batch={samples}", *more]

    def together(self, method: str) -> int:
        """Samples at once in the comparison."""
        return 2 if self.settings.cpu else TOGETHER[method]

    def timed(self, steps: Any) -> float:
        """Seconds a step: the median after warming up. What it held is gone afterwards."""
        try:
            with closing(steps):
                for _ in islice(steps, self.warm_up):
                    pass
                return statistics.median(islice(steps, self.count))
        finally:
            self.freed()

    def freed(self) -> None:
        """Let go of what is no longer used."""
        self.place.method = None
        release(self.place.device)

    def ours(self, method: str, samples: int, *more: str, change: Any = None) -> float:
        """Seconds a step of birdsd's trainer."""
        return self.timed(
            self.place.steps(self.settled(method, samples, *more), *([change] if change else []))
        )

    def bare(self, method: str, samples: int, ways: Ways) -> float:
        """Seconds a step of the bare loop."""
        kind: Any = BARE[method]
        if method == "autoencoder":
            codec = self.place.index.codec
            kind.size = (int(codec["bands"]), int(codec["frames"]))
        # Only the generator holds the networks, so that they go with it.
        made = kind(self.place.base, self.place.device, self.precision.dtype, samples, ways)
        steps = made.steps()
        del made
        return self.timed(steps)

    def flops(self, method: str) -> float:
        """Of one sample, forward and backward."""
        config = self.place.config(self.settled(method, 1))
        return trace_step(config, self.place.index.codec, 1, self.precision.name).flops

    def row(self, what: str, samples: int, seconds: float, flops: float | None) -> dict[str, Any]:
        """Throughput, and MFU where the card's peak is known."""
        mfu = None if self.peak is None or flops is None else flops * samples / seconds / self.peak
        return {
            "what": what, "samples at once": samples, "ms a step": 1000 * seconds,
            "samples/s": samples / seconds, "MFU": None if mfu is None else f"{mfu:.1%}",
        }  # fmt: skip

    # -- the items --------------------------------------------------------------------------------------

    def compared(self, method: str) -> Iterator[dict[str, Any]]:
        """Ours, the bare loop, and where our time goes."""
        samples, table = self.together(method), f"beside a bare loop, {self.precision.name}, cached latents"
        flops = self.flops(method)
        ours = self.ours(method, samples)
        yield {"table": table, **self.row("birdsd", samples, ours, flops)}
        bare = self.bare(method, samples, Ways())
        yield {"table": table, **self.row("bare diffusers loop", samples, bare, flops)}
        # In turn, so that a card whose clock drifts moves both.
        if not self.settings.cpu:
            ours = min(ours, self.ours(method, samples))
        again = bare if self.settings.cpu else self.bare(method, samples, Ways())
        bare = min(bare, again)
        yield {"table": table, **self.row("birdsd", samples, ours, flops)}
        yield {"table": table, **self.row("bare diffusers loop", samples, bare, flops)}
        reached = bare / ours
        goals = {"speed": f">= {GOAL_RATIO}: {'yes' if reached >= GOAL_RATIO else 'NO'}"}
        if self.peak is not None:
            mfu = flops * samples / ours / self.peak
            goals["MFU"] = f">= {GOAL_MFU:.0%}: {'yes' if mfu >= GOAL_MFU else 'NO'}"
        yield {"table": "goals", "what": "birdsd / bare loop", "ratio": reached, **goals}
        yield from self.profiled(method, samples)

    def sizes(self) -> Iterator[dict[str, Any]]:
        """More samples at once, until the memory is full."""
        for method in ("lora",) if self.settings.cpu else ("full", "lora"):
            flops = self.flops(method)
            for samples in SIZES[:2] if self.settings.cpu else SIZES:
                row = self._attempt(lambda m=method, n=samples: self.ours(m, n))
                if isinstance(row, str):
                    yield {"table": "samples at once", "what": f"{method}, {samples}", "why": row}
                    break
                yield {"table": "samples at once", **self.row(f"{method}, {samples}", samples, row, flops)}

    def ways(self, compiled: bool) -> Iterator[dict[str, Any]]:
        """Each way by itself against the usual one, of birdsd's step and of the bare loop's."""
        method = "full"
        samples = self.together(method)
        flops = self.flops(method)
        tried: dict[str, Callable[[], float]] = self._compiled(method, samples) if compiled else {}
        if not compiled:
            tried = {
                "birdsd as it is": partial(self.ours, method, samples),
                "birdsd, channels_last": partial(self.ours, method, samples, change=channels_last),
                "bare loop, fused AdamW": partial(self.bare, method, samples, Ways()),
                "bare loop, AdamW not fused": partial(self.bare, method, samples, Ways(fused=False)),
                "bare loop, channels_last": partial(self.bare, method, samples, Ways(channels_last=True)),
            }
            tried |= {
                f"birdsd, attention by {name}": self._attending(name, samples) for name in self._backends()
            }
        times: dict[str, float] = {}
        for what, measure in tried.items():
            found = self._attempt(measure)
            if isinstance(found, str):
                yield {"table": "ways", "what": what, "why": found}
            else:
                times[what] = found
                yield {"table": "ways", **self.row(what, samples, found, flops)}
        for whose in ("birdsd", "bare loop"):
            own = {what: seconds for what, seconds in times.items() if what.startswith(whose)}
            if own:
                best = min(own, key=lambda what: own[what])
                faster = next(iter(own.values())) / own[best]
                yield {"table": "the fastest", "what": whose, "it is": best, "times as fast": faster}

    def _compiled(self, method: str, samples: int) -> dict[str, Callable[[], float]]:
        if self.settings.cpu:  # minutes for a UNet; pytest compiles something small
            torch._dynamo.config.disable = True
        both = Ways(channels_last=True, compiled=True)
        return {
            "birdsd as it is": partial(self.ours, method, samples),
            "birdsd, compiled": partial(self.ours, method, samples, "machine.compile=true"),
            "birdsd, compiled, channels_last": partial(
                self.ours, method, samples, "machine.compile=true", change=channels_last
            ),
            "bare loop, as it is": partial(self.bare, method, samples, Ways()),
            "bare loop, compiled": partial(self.bare, method, samples, Ways(compiled=True)),
            "bare loop, compiled, channels_last": partial(self.bare, method, samples, both),
        }

    def _attending(self, name: str, samples: int) -> Callable[[], float]:
        from torch.nn.attention import SDPBackend, sdpa_kernel

        def measure() -> float:
            with sdpa_kernel(getattr(SDPBackend, name)):
                return self.ours("full", samples)

        return measure

    def _backends(self) -> Sequence[str]:
        own = () if self.settings.cpu else ("EFFICIENT_ATTENTION", "CUDNN_ATTENTION")
        return ("FLASH_ATTENTION", *own, "MATH")

    def _attempt(self, measure: Callable[[], float]) -> float | str:
        """Seconds a step, or why there is none: the next is tried all the same."""
        try:
            return measure()
        except Exception as error:
            why = "out of memory" if is_out_of_memory(error) else f"{type(error).__name__}: {error}"
            error.__traceback__ = None
        self.freed()
        return why.splitlines()[0][:200]

    # -- where the time goes ----------------------------------------------------------------------------

    def profiled(self, method: str, samples: int) -> Iterator[dict[str, Any]]:
        """Shares of the kernels' time by kind, and how long the card waited; the table goes to a file."""
        from torch.profiler import ProfilerActivity, profile

        activities = [ProfilerActivity.CPU, *([] if self.settings.cpu else [ProfilerActivity.CUDA])]
        count = 1 if self.settings.cpu else 4
        with closing(self.place.steps(self.settled(method, samples))) as steps:
            for _ in islice(steps, self.warm_up):
                pass
            with profile(activities=activities) as seen:
                wall = sum(islice(steps, count))
        self.freed()
        times: dict[str, float] = {}
        for event in seen.key_averages():
            times[event.key] = times.get(event.key, 0.0) + _own_us(event, self.settings.cpu)
        spent = sum(times.values()) or 1.0
        column = "self_cpu_time_total" if self.settings.cpu else "self_cuda_time_total"
        with suppress(Exception):  # its columns have had several names
            text = seen.key_averages().table(sort_by=column, row_limit=40, max_name_column_width=90)
            (self.settings.folder / f"profile-{method}.txt").write_text(text)
        kinds: dict[str, float] = {}
        for name, own in times.items():
            kind = next((k for k, like in KINDS if re.search(like, name, re.IGNORECASE)), OTHER)
            kinds[kind] = kinds.get(kind, 0.0) + own
        table = "where the time of a step goes"
        for kind, own in sorted(kinds.items(), key=lambda pair: -pair[1]):
            yield {"table": table, "what": kind, "share": f"{own / spent:.1%}", "ms": own / count / 1000}
        if not self.settings.cpu:
            idle = max(0.0, wall - spent / 1e6)
            yield {
                "table": table, "what": "no kernel at work (profiled)",
                "share": f"{idle / wall:.1%} of the step", "ms": 1000 * idle / count,
            }  # fmt: skip


def _own_us(event: Any, cpu: bool) -> float:
    """Microseconds of its own: on a card of kernels alone, as operators would count them once more."""
    if cpu:
        return float(event.self_cpu_time_total)
    if "CPU" in str(getattr(event, "device_type", "")):
        return 0.0
    names = ("self_device_time_total", "self_cuda_time_total")
    return float(next((getattr(event, name) for name in names if hasattr(event, name)), 0.0))


def channels_last(learner: Any) -> None:
    """Pictures go through the UNet with their channels innermost."""

    def laid(module: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        first, *others = arguments
        return (first.contiguous(memory_format=torch.channels_last), *others)

    learner.unet.register_forward_pre_hook(laid)
