"""What the judge says of a grid's clips: a verdict for each clip whose prompt names one species."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from birdsd.evaluation.available_judge import available_judge
from birdsd.evaluation.judges import Sound, judge_sounds

if TYPE_CHECKING:
    from birdsd.evaluation.judges import Judge, Verdict


@dataclass(frozen=True)
class GridJudgement:
    """Verdicts by cell and clip; None for a clip of no species, of several, or of one that is not known.

    `judge` is its title with the licence, "" without one; `remark` says what is missing and why.
    """

    judge: str = ""
    remark: str = ""
    cells: list[list[Verdict | None]] = field(default_factory=list)

    def of(self, cell: int) -> str:
        """e.g. '3 of 4 named right'; '' where nothing in the cell was judged."""
        verdicts = [verdict for verdict in self.cells[cell] if verdict] if self.cells else []
        return (
            f"{sum(bool(verdict.right) for verdict in verdicts)} of {len(verdicts)} named right"
            if verdicts
            else ""
        )

    def to_json(self, cell: int) -> list[dict[str, Any] | None]:
        """The verdicts on a cell's clips, plain values only."""
        return [asdict(verdict) if verdict else None for verdict in self.cells[cell]] if self.cells else []


def judge_cells(cells: Sequence[Sequence[Sound]], judge: Judge | None = None) -> GridJudgement:
    """Judge the clips of every cell; a sound without `species` is left out."""
    among = sorted({sound.species for cell in cells for sound in cell if sound.species})
    if not among:
        return GridJudgement()
    if judge is None:
        judge, why = available_judge()
        if judge is None:
            return GridJudgement(remark=why)
    unknown = [name for name in among if judge.class_of(name) is None]
    credit = f"{judge.title} ({judge.licence})"
    remark = f"{credit} has no class for {', '.join(unknown)}: those clips are not counted" if unknown else ""
    places = [
        (row, at)
        for row, cell in enumerate(cells)
        for at, sound in enumerate(cell)
        if sound.species and sound.species not in unknown
    ]
    found: list[list[Verdict | None]] = [[None] * len(cell) for cell in cells]
    if not places:
        return GridJudgement("", remark, found)
    judged = judge_sounds(judge, [cells[row][at] for row, at in places], among)
    for (row, at), verdict in zip(places, judged.verdicts, strict=True):
        found[row][at] = verdict
    return GridJudgement(credit, remark, found)
