"""The GPUs of a cluster's nodes by type: whole ones, and slices of them (MIG)."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# So many sevenths with so much memory: 1g.10gb, a100_1g.5gb, nvidia_a100_3g.20gb, 1c.3g.20gb, h100-2g20gb.
_SLICE = re.compile(r"(?<![a-z0-9])(?:[1-7]c[._-]?)?([1-7])g[._-]?(\d+)gb", re.IGNORECASE)
_MIG = re.compile(r"(?<![a-z])mig(?![a-z])", re.IGNORECASE)
SEVENTHS = 7
# No node has more GPUs; a larger count means slices under a site-specific name.
_MOST_WHOLE = 16


@dataclass(frozen=True)
class Kind:
    """The GPUs of one type in a partition. `type` is Slurm's name for it, "" where it gives none; `per_node`
    of them are on most of its nodes, and on all of `nodes` at least."""

    type: str
    per_node: int
    nodes: tuple[Mapping[str, str], ...]
    is_slice: bool

    @property
    def described(self) -> str:
        """The number of nodes, for a remark."""
        return f"{self.per_node} {self.type or 'GPUs without a type'} on {len(self.nodes)} nodes"


def gpus_of_node(node: Mapping[str, str]) -> dict[str, int]:
    """The GPUs of a node by type ("" where they have none): gpu:a100:4(S:0-1) -> {"a100": 4}. Shares of a
    GPU (shard, mps) are none."""
    counts: Counter[str] = Counter()
    for item in re.sub(r"\([^)]*\)", "", node.get("Gres", "")).split(","):
        name, *rest = [part.strip() for part in item.split(":") if part.strip() != "no_consume"]
        if name != "gpu":
            continue
        count = rest.pop() if rest and rest[-1].isdigit() else "1"
        counts[rest[0] if rest else ""] += int(count)
    return {kind: count for kind, count in counts.items() if count}


def is_slice(kind: str, count: int = 0) -> bool:
    """Whether a type of GPU (of which a node has `count`) is a slice (MIG)."""
    return bool(_SLICE.search(kind) or _MIG.search(kind)) or count > _MOST_WHOLE


def slice_gb(kind: str) -> int:
    """The memory of a slice in GB, from its name; 0 where unknown."""
    match = _SLICE.search(kind)
    return int(match[2]) if match else 0


def slice_sevenths(kind: str) -> int:
    """How many sevenths of a GPU's processors a slice has, from its name; 1 where unknown."""
    match = _SLICE.search(kind)
    return int(match[1]) if match else 1


def cards_of_node(node: Mapping[str, str]) -> int:
    """The physical GPUs of a node, including those that are sliced."""
    cards = 0
    for kind, count in gpus_of_node(node).items():
        whole = not is_slice(kind, count)
        cards += count if whole else math.ceil(count * slice_sevenths(kind) / SEVENTHS)
    return cards


def kinds_of(nodes: Sequence[Mapping[str, str]]) -> list[Kind]:
    """The types of GPU on these nodes: whole ones before slices, those of the most nodes first, of slices
    those with the most memory."""
    pairs = Counter(pair for node in nodes for pair in gpus_of_node(node).items())
    kinds: dict[str, Kind] = {}
    for (name, per_node), _ in pairs.most_common():
        if name in kinds:
            continue
        own = tuple(node for node in nodes if gpus_of_node(node).get(name, 0) >= per_node)
        most = max(count for (other, count) in pairs if other == name)
        kinds[name] = Kind(name, per_node, own, is_slice(name, most))
    return sorted(
        kinds.values(), key=lambda kind: (kind.is_slice, -slice_gb(kind.type) if kind.is_slice else 0)
    )


def has_whole(nodes: Sequence[Mapping[str, str]]) -> bool:
    """Whether one of these nodes has a whole GPU."""
    return any(not kind.is_slice for kind in kinds_of(nodes))
