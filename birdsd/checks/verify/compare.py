"""Whether the interrupted run learnt the same as the reference: pure comparisons."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from birdsd.remarks import Remark

# Settings may amplify rounding; a difference beyond these is never attributed to that.
_MOST_LOSS, _MOST_WEIGHTS, _LEEWAY = 1e-2, 5e-2, 10.0
# The kinds of a checkpoint's tensors that are compared: weights and their moving average.
_KINDS = ("weights", "ema")


@dataclass(frozen=True)
class Limits:
    """Tolerances for runs with different ranks and micro-batches: the relative difference of two losses at
    the same position, and of all weights together (norm of the difference over the norm). `why` explains a
    raised limit."""

    loss: float = 1e-5
    weights: float = 1e-4
    why: str = ""

    @classmethod
    def of(cls, precision: str) -> Limits:
        """The limits for fp32, or for bf16 and fp16."""
        return cls() if precision == "fp32" else cls(_MOST_LOSS, _MOST_WEIGHTS)

    def raised(self, loss: float, weights: float) -> Limits:
        """Raised to what another micro-batch, which changes rounding alone, does to two references."""
        raised = Limits(
            min(_MOST_LOSS, max(self.loss, _LEEWAY * loss)),
            min(_MOST_WEIGHTS, max(self.weights, _LEEWAY * weights)),
            f"another micro-batch alone makes a difference of {loss:.1e}: these settings amplify rounding",
        )
        return raised if (raised.loss, raised.weights) != (self.loss, self.weights) else self


@dataclass(frozen=True)
class LossComparison:
    """`worst` is the largest relative difference, at the position `at`; `problem` is "" for none."""

    steps: int
    worst: float
    at: int
    problem: str = ""


def compare_ledgers(reference: np.ndarray, other: np.ndarray, batch: int, first: int = 0) -> str:
    """ "" if the samples `other` saw from position `first` on are those of the reference run, in each global
    batch; else a sentence that names the first batch that differs."""
    expected = reference[first : first + len(other)]
    if len(expected) < len(other):
        return f"it continues to position {first + len(other)}, the uninterrupted run to {len(reference)}"
    wrong = np.flatnonzero(expected != other)
    if not len(wrong):
        return ""
    position = first + int(wrong[0])
    was, now = int(other[wrong[0]]), int(expected[wrong[0]])
    return (
        f"global batch {position // batch} differs: position {position} holds sample {was}, not {now} "
        f"({len(wrong)} of {len(other)} positions differ)"
    )


def compare_losses(
    reference: Mapping[int, float], other: Mapping[int, float], tolerance: float, whole: bool = False
) -> LossComparison:
    """Compare losses by position; a `tolerance` of 0 asks for the same bits. `whole`: every position of the
    reference run must be there."""
    worst, at = 0.0, 0
    for position, loss in other.items():
        if position not in reference:
            text = f"position {position} is not in the uninterrupted run"
            return LossComparison(len(other), worst, at, Remark(text, "position-unknown", position=position))
        expected = reference[position]
        difference = 0.0 if loss == expected else abs(loss - expected) / max(abs(expected), 1e-30)
        if math.isnan(difference):
            difference = math.inf
        if difference > worst:
            worst, at = difference, position
    if worst > tolerance:
        limit = f"the limit is {tolerance:.2g}" if tolerance else "they must be the same bits"
        code = "losses-apart" if tolerance else "losses-not-bitwise"
        pair = f"the losses at position {at} are {reference[at]!r} and {other[at]!r}"
        text = Remark(f"{pair}: {worst:.2g} apart, {limit}", code, position=at)
        return LossComparison(len(other), worst, at, text)
    if whole and (missing := sorted(reference.keys() - other.keys())):
        return LossComparison(len(other), worst, at, f"the loss of position {missing[0]} is missing")
    return LossComparison(len(other), worst, at)


def compare_weights(
    reference: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray], tolerance: float
) -> tuple[dict[str, float], str]:
    """(relative difference by kind, "" or what is wrong) of two checkpoints' tensors by "KIND/NAME".

    The differences are taken over all tensors of a kind together: a bias that the loss does not depend on
    has no gradient but rounding, and Adam makes whole steps of that.
    """
    if missing := sorted(reference.keys() ^ other.keys()):
        text = f"only one of the checkpoints holds {missing[0]}"
        return {}, Remark(text, "tensor-missing", tensor=missing[0])
    squares = {kind: np.zeros(2) for kind in _KINDS}
    for key in reference:
        kind = key.split("/", 1)[0]
        if kind not in squares:
            continue
        ours, theirs = reference[key].astype(np.float64), other[key].astype(np.float64)
        if ours.shape != theirs.shape:
            return {}, f"{key} has the shapes {list(ours.shape)} and {list(theirs.shape)}"
        squares[kind] += np.square(theirs - ours).sum(), np.square(ours).sum()
    differences = {
        kind: float(np.sqrt(difference / max(total, 1e-30)))
        for kind, (difference, total) in squares.items()
        if total > 0
    }
    for kind, value in differences.items():
        if not value <= tolerance:
            return (
                differences,
                f"the {kind} differ by {value:.2g} of their norm, the limit is {tolerance:.2g}",
            )
    return differences, "" if differences else "there are no weights to compare"


def compare_states(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> str:
    """ "" if two checkpoints hold the same bits in every tensor (weights, moments, averages)."""
    if missing := sorted(first.keys() ^ second.keys()):
        return Remark(f"only one of the two holds {missing[0]}", "tensor-missing", tensor=missing[0])
    for key in sorted(first):
        ours, theirs = first[key], second[key]
        if (ours.dtype, ours.shape) != (theirs.dtype, theirs.shape) or ours.tobytes() != theirs.tobytes():
            return Remark(f"{key} is not bitwise identical", "tensor-differs", tensor=key)
    return ""


class SavedTensors(Mapping[str, np.ndarray]):
    """The tensors of a checkpoint folder by "KIND/NAME", each read when asked for. A context manager."""

    def __init__(self, folder: Path) -> None:
        self._stack = ExitStack()
        self._files: dict[str, object] = {}
        self._paths = sorted(Path(folder).glob("*.safetensors"))

    def __enter__(self) -> SavedTensors:
        from safetensors import safe_open

        for path in self._paths:
            file = self._stack.enter_context(safe_open(path, framework="numpy"))
            self._files.update(dict.fromkeys(file.keys(), file))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def __getitem__(self, key: str) -> np.ndarray:
        return self._files[key].get_tensor(key)  # type: ignore[attr-defined]

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)
