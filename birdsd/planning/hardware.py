"""The hardware to plan for: this machine, a GPU by name or size, a site, or the target of a preset."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from birdsd.errors import BadValue, UnknownName, UserError, listed_names
from birdsd.site.gpus import SEVENTHS, slice_gb, slice_sevenths

if TYPE_CHECKING:
    from birdsd.schema import SiteConfig

GIB = 2**30
# What the CUDA context, its libraries and a desktop take besides torch's own allocations.
CONTEXT_BYTES = GIB // 2


@dataclass(frozen=True)
class Card:
    """A GPU: GiB of memory, dense 16-bit TFLOP/s of its maker's data sheet, whether it computes in bf16."""

    name: str
    gib: float
    tflops: float
    bf16: bool


CARDS = (
    Card("RTX 3050 Ti", 4, 21, True),
    Card("RTX 4060", 8, 60, True),
    Card("T4", 16, 65, False),
    Card("V100", 16, 125, False),
    Card("RTX 3090", 24, 71, True),
    Card("RTX 4090", 24, 165, True),
    Card("L4", 24, 121, True),
    Card("A10", 24, 125, True),
    Card("A100-40", 40, 312, True),
    Card("L40S", 48, 362, True),
    Card("A100", 80, 312, True),
    Card("H100", 80, 989, True),
    Card("H200", 141, 989, True),
)
# The target of a preset, where this machine has no GPU: card, GPUs per node, GiB of host memory.
MEANT_FOR = {
    "laptop-4gb": ("RTX 3050 Ti", 1, 16.0),
    "notebook": ("T4", 1, 30.0),
    "node": ("A100", 4, 512.0),
    "cluster": ("A100", 4, 512.0),
}


@dataclass(frozen=True)
class Hardware:
    """Identical nodes. `card` is None on a CPU; `assumed` names what is assumed rather than known."""

    card: Card | None
    gpus_per_node: int
    nodes: int
    host_bytes: int
    assumed: str = ""
    time_limit_min: int = 0

    @property
    def gpu_bytes(self) -> int:
        """What torch may allocate on one GPU."""
        return 0 if self.card is None else int(self.card.gib * GIB) - CONTEXT_BYTES

    @property
    def ranks(self) -> int:
        return self.nodes * max(1, self.gpus_per_node)

    def described(self) -> str:
        """One line."""
        each = f"{self.host_bytes / GIB:.0f} GiB of host memory"
        if self.card is None:
            return f"CPU, {each}"
        count = f"{self.nodes} x " if self.nodes > 1 else ""
        gpus = f"{self.gpus_per_node} x {self.card.name}" if self.gpus_per_node > 1 else self.card.name
        return f"{count}{gpus} ({self.card.gib:g} GiB, {self.gpu_bytes / GIB:.1f} for tensors), {each}"


def card_called(text: str) -> Card:
    """A card by a part of its name, or by its memory: "H100", "8GB"; `UserError` for neither."""
    if match := re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:GB|GiB|G)", text.strip(), re.IGNORECASE):
        size = float(match[1])
        if size <= 0:
            raise BadValue(f"--gpu {text}", "GPU memory must be positive", "e.g. --gpu 8GB")
        like = min(CARDS, key=lambda card: abs(card.gib - size))
        return Card(f"a card of {size:g} GB, as fast as {like.name}", size, like.tflops, like.bf16)
    plain = text.casefold().replace(" ", "").replace("-", "")
    for card in sorted(CARDS, key=lambda card: -len(card.name)):
        if card.name.casefold().replace(" ", "").replace("-", "") in plain:
            return card
    raise UnknownName(
        f"--gpu {text} is unknown",
        f"known are {listed_names((card.name for card in CARDS), text)}",
        "give its memory instead: --gpu 24GB",
    )


def hardware(
    preset: str, gpu: str | None = None, site: SiteConfig | None = None, nodes: int = 1, per_node: int = 0
) -> Hardware:
    """The hardware to plan for: `gpu` if given, else the site's, else this machine's GPU, else the target
    of the machine preset, else a small GPU where the site does not name the type of its GPUs, else this
    CPU."""
    host, limit = host_memory(), 0
    if site is not None:
        limit = site.time_limit_min
        per_node = per_node or site.gpus_per_node
        if site.memory_gb_per_node:
            host = int(site.memory_gb_per_node * 1e9)
        gpu = gpu or site.gpu_type
    if gpu:
        assumed = ""
        # "notebook" also stands for no preset at all: then the host is this one.
        if site is None and preset in MEANT_FOR and preset != "notebook" and own_card() is None:
            _, count, gib = MEANT_FOR[preset]
            per_node, host = per_node or count, int(gib * GIB)
            assumed = f"GPUs per node, host memory: typical of machine={preset}; override with --site"
        return Hardware(_part_of_card(gpu) or card_called(gpu), max(1, per_node), nodes, host, assumed, limit)
    if (own := own_card()) is not None and site is None:
        card, count = own
        return Hardware(card, per_node or count, nodes, host, "", limit)
    if preset in MEANT_FOR:
        name, count, gib = MEANT_FOR[preset]
        assumed = f"no GPU here: planned for a typical GPU of machine={preset}; override with --gpu or --site"
        return Hardware(card_called(name), per_node or count, nodes, int(gib * GIB), assumed, limit)
    if site is not None and site.gpus_per_node:
        name = MEANT_FOR["notebook"][0]
        assumed = f"site {site.name} does not name its GPUs: planned for a {name}; override with --gpu"
        return Hardware(card_called(name), per_node, nodes, host, assumed, limit)
    return Hardware(None, max(1, per_node), nodes, host, "", limit)


def _part_of_card(kind: str) -> Card | None:
    """A slice of a GPU (MIG) as a card, by a name such as a100_1g.10gb; None for a whole GPU."""
    gb, sevenths = slice_gb(kind), slice_sevenths(kind)
    if not gb:
        return None
    try:
        whole = card_called(kind)
    except UserError:
        whole = card_called("A100")  # the first that can be sliced
    return Card(f"a slice {kind}", gb, whole.tflops * sevenths / SEVENTHS, whole.bf16)


def own_card() -> tuple[Card, int] | None:
    """The first GPU here and how many there are, or None."""
    import torch

    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    gib = properties.total_memory / GIB
    try:
        like = card_called(properties.name)
    except UserError:
        like = min(CARDS, key=lambda card: abs(card.gib - gib))
    return Card(properties.name, gib, like.tflops, properties.major >= 8), torch.cuda.device_count()


def host_memory() -> int:
    """Bytes of host memory of this machine, or of the cgroup that limits this process."""
    import psutil

    total = int(psutil.virtual_memory().total)
    for place in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            with open(place, encoding="ascii") as stream:
                total = min(total, int(stream.read()))
        except (OSError, ValueError):
            continue
    return total
