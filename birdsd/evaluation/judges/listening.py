"""A judge listens to files: verdicts, and tables of what it heard where."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from birdsd.errors import NothingLeft, UserError
from birdsd.evaluation.judges.judge import Judge
from birdsd.evaluation.judges.judgement import (
    Court,
    Judgement,
    Verdict,
)
from birdsd.evaluation.judges.sounds import Detection, SoundFiles, hear_file
from birdsd.files import safe_name, write_json, write_text
from birdsd.sound.labels.load import Label, write_raven

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
        raise NothingLeft(f"none of the sounds can be judged: {left_out[0][1]}")
    return Listening(court.judgement(), paths, durations_s, detections, min_confidence, several, left_out)


def _csv(verdicts: Sequence[Verdict]) -> str:
    """A row for every file; empty cells where there is nothing to say."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Verdict)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(verdict) for verdict in verdicts)
    return text.getvalue()
