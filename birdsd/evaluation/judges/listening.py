"""A judge listens to files: verdicts, and tables of what it heard where."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from birdsd.errors import UserError, clipped
from birdsd.evaluation.judges.judge import Judge
from birdsd.evaluation.judges.judgement import (
    Court,
    Judgement,
    Verdict,
    best_of_title,
    judgement_text,
)
from birdsd.evaluation.judges.sounds import Detection, SoundFiles, hear_file
from birdsd.files import safe_name, write_json, write_text
from birdsd.format import table
from birdsd.sound.labels.load import Label, write_raven

_MOST_FILES = 100
_MOST_PROBLEMS = 10

TABLES = "tables"


@dataclass(frozen=True)
class Listening:
    """What a judge said of files: the judgement, in its order the paths and what was heard where."""

    judgement: Judgement
    paths: list[Path]
    durations_s: list[float]
    detections: list[list[Detection]]
    min_confidence: float
    several: int  # files that are said to hold several species: heard, and in no figure
    left_out: list[tuple[Path, str]]

    def to_json(self) -> dict[str, Any]:
        """Plain values only: the judgement, with the path and what was heard where in every verdict."""
        values = self.judgement.to_json()
        for verdict, path, heard in zip(values["verdicts"], self.paths, self.detections, strict=True):
            verdict["path"] = str(path)
            verdict["heard"] = [asdict(detection) for detection in heard]
        left_out = [{"path": str(path), "reason": reason} for path, reason in self.left_out]
        return {**values, "min_confidence": self.min_confidence, "several_species": self.several,
                "left_out": left_out}  # fmt: skip

    def text(self) -> str:
        """For a terminal: file by file, then the table of species."""

        return listening_text(self)

    def write(self, out: Path) -> list[Path]:
        """Write judge.json, judge.csv and a Raven table for every file; returns the paths."""
        written = [out / "judge.json", out / "judge.csv"]
        write_json(written[0], self.to_json())
        write_text(written[1], _csv(self.judgement.verdicts))
        for verdict, duration_s, heard in zip(
            self.judgement.verdicts, self.durations_s, self.detections, strict=True
        ):
            parts = [safe_name(part, 150) for part in Path(verdict.name).parts]
            path = out.joinpath(TABLES, *parts[:-1], f"{parts[-1]}.selections.txt")
            labels = [Label(detection.species, detection.start_s, detection.end_s) for detection in heard]
            scores = {"Confidence": [f"{detection.score:.4f}" for detection in heard]} if heard else None
            name = Path(verdict.name).name
            write_raven(path, labels, duration_s=duration_s, begin_file=name, further=scores)
            written.append(path)
        return written


def listen(
    judge: Judge,
    sounds: SoundFiles,
    among: Sequence[str] = (),
    *,
    min_confidence: float = 0.25,
    expected: str | None = None,
    progress: bool = True,
) -> Listening:
    """Judge files. `among` are the species to choose the best of (default: those that the files are said to
    hold); `expected` is what files without a label should be. A file that cannot be read to its end is listed
    in `left_out`, and the others go on."""
    from tqdm import tqdm

    court = Court(judge, among or sounds.species)
    paths, durations_s, detections, left_out = [], [], [], list(sounds.left_out)
    several = 0
    total_s = round(sum(file.duration_s for file in sounds.files))
    with tqdm(total=total_s, desc=judge.title, unit="s", disable=None if progress else True) as bar:
        for name, file in zip(sounds.names(), sounds.files, strict=True):
            try:
                heard = hear_file(judge, file.path, min_confidence)
            except UserError as error:
                left_out.append((file.path, str(error)))
                continue
            finally:
                bar.update(min(round(file.duration_s), total_s - bar.n))
            several += len(file.species) > 1
            species = file.species[0] if len(file.species) == 1 else None
            species = expected if not file.species else species
            court.take(name, species, heard.logits, heard.embedding, "silence" if heard.silent else "")
            paths.append(file.path)
            durations_s.append(heard.duration_s)
            detections.append(heard.detections)
    if not paths:
        raise UserError(f"none of the sounds can be judged: {left_out[0][1]}")
    return Listening(court.judgement(), paths, durations_s, detections, min_confidence, several, left_out)


def _csv(verdicts: Sequence[Verdict]) -> str:
    """A row for every file; empty cells where there is nothing to say."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Verdict)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(verdict) for verdict in verdicts)
    return text.getvalue()


def listening_text(listening: Listening) -> str:
    """A row for every file, then the table of species, then what could not be judged."""
    judgement = listening.judgement
    shown = judgement.verdicts[:_MOST_FILES]
    head = ["file", "top-1 of all", "confidence", "should be", "rank", "score", best_of_title(judgement)]
    lines = table([head, *map(_file_cells, shown)], {0, 1, 3, 6})
    if more := len(judgement.verdicts) - len(shown):
        lines.append(f"... and {more} more: --out FOLDER or --json")
    unsaid = sum(verdict.species is None for verdict in judgement.verdicts) - listening.several
    lines += ["", *judgement_text(judgement).splitlines()]
    if unsaid:
        lines.append(f"{unsaid} without a label: heard, but not counted")
    if listening.several:
        lines.append(f"{listening.several} with several species: heard, but not counted")
    return "\n".join([*lines, *left_out_lines(listening.left_out)])


def left_out_lines(left_out: Sequence[tuple[Path, str]]) -> list[str]:
    """The files that could not be judged, each with its reason, where they are many the first of them."""
    lines = [f"left out: {path.name}: {clipped(reason, 200)}" for path, reason in left_out[:_MOST_PROBLEMS]]
    more = len(left_out) - _MOST_PROBLEMS
    return [*lines, f"left out: {more} more"] if more > 0 else lines


def _file_cells(verdict: Verdict) -> list[str]:
    rank = "-" if verdict.rank is None else str(verdict.rank)
    score = "-" if verdict.score is None else f"{verdict.score:.2f}"
    should = verdict.species or "-"
    should = should if verdict.known or not verdict.species else f"({should})"
    named = f"({verdict.note}: {verdict.named})" if verdict.note else verdict.named
    return [
        clipped(verdict.name), named, f"{verdict.confidence:.2f}", should,
        rank, score, verdict.named_among or "-",
    ]  # fmt: skip
