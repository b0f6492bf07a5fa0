"""What the label files say of one recording: its labels, birds not identified, stretches without birds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from birdsd.remarks import Remark
from birdsd.sound.audio.recordings import AudioInfo
from birdsd.sound.labels.annotation import (
    ABSENT,
    NO_BIRD_BOX,
    NO_NAME,
    OUT_OF_BAND,
    OUTSIDE,
    REPEATED,
    SUPERSEDED,
    UNKNOWN_BIRD,
    Label,
    LabelledSet,
    Problem,
)
from birdsd.sound.labels.layers import Facts
from birdsd.sound.labels.rows import Row

UNREADABLE_ROW = "a row that cannot be read"  # it may have named a bird, nobody knows when
_SLACK_S = 0.05  # labels may end this much after the file (rounding by the tool that wrote them)
_COVERED = 0.9  # a share of a file in boxes that say "no bird": then they mean all of it


def covers(facts: Facts, duration_s: float) -> bool:
    """Whether boxes that say "no bird" (BirdNET's nocall) cover a whole file, and nothing else is said."""
    if facts.doubtful or any(row.absent or not row.names.no_bird for row in facts.rows if row.about_birds):
        return False
    return _covered(
        sorted((row.start_s or 0.0, row.end_s or 0.0) for row in facts.rows if row.is_box), duration_s
    )


def _covered(spans: list[tuple[float, float]], duration_s: float) -> bool:
    reached = total = 0.0
    for start, end in spans:
        total += max(0.0, min(end, duration_s) - max(start, reached))
        reached = max(reached, end)
    return total >= _COVERED * duration_s > 0


class RecordingLabels:
    """What the chosen layer says about one file: it takes rows, gives labels, and accounts for the rest."""

    def __init__(self, info: AudioInfo, others: list[Facts], result: LabelledSet) -> None:
        self.info, self.result = info, result
        self.labels: list[Label] = []
        self.unknown: list[Label] = []
        self.silences: list[Label] = []
        self.no_bird_rows = 0
        self.is_birdless = False  # boxes without birds cover all of it
        self.expected = False  # it names species somewhere
        # A box without a name has the one species that the file's folder or table names.
        whole = [
            row.names.species
            for facts in others
            for row in facts.rows
            if not row.is_box and row.names.species
        ]
        self._inherited = whole[0] if whole and len(whole[0]) == 1 else ()

    def take_aside(self, facts: Facts) -> None:
        """A layer that was not chosen: its labels give way; where it doubts a bird, no clip is sure."""
        gone = sum(row.count for row in facts.rows if row.about_birds and row.absent)
        count = sum(row.count for row in facts.rows if row.about_birds)
        self.result.account.left_out[ABSENT] += gone
        self.result.account.left_out[SUPERSEDED] += count - gone
        for row in facts.rows:
            if row.is_box and not row.names.species and (row.names.unknown or row.names.no_bird):
                self.unknown.append(row.label((*row.names.unknown, *row.names.no_bird)[0]))

    def take_all(self, facts: Facts) -> None:
        """The layer that counts."""
        boxed = facts.has_boxes
        if facts.named:
            self._inherited = ()
        self.is_birdless = covers(facts, self.info.duration_s)
        for row in facts.rows:
            if row.about_birds:
                self._take(row, boxed)
        if facts.doubtful:
            self.unknown.append(Label(UNREADABLE_ROW))
        if self.silences and not self.labels and not self.is_birdless:
            self.unknown += self._between(self.silences)

    def _take(self, row: Row, boxed: bool) -> None:
        if row.absent:
            # That this bird is not there says nothing about others.
            self.result.account.left_out[ABSENT] += row.count
            self.unknown += [row.label(name) for name in row.names.species] if row.is_box else []
            return
        if row.names.unknown:
            self._take_unknown(row)
        if not row.is_box or self.is_birdless:
            self.no_bird_rows += len(row.names.no_bird)
        elif boxed:
            self.result.account.left_out[NO_BIRD_BOX] += len(row.names.no_bird)
        else:
            self.no_bird_rows += len(row.names.no_bird)
            self.silences += [row.label(name) for name in row.names.no_bird]
        if boxed and not row.is_box and row.names.species:
            # It is somewhere: it may name no clip of the others, and no clip is without it.
            self.result.account.left_out[SUPERSEDED] += len(row.names.species)
            self.unknown += [row.label(name) for name in row.names.species]
            return
        nameless = not row.names.count or (row.guessed and bool(self._inherited))
        names = self._inherited if nameless else row.names.species
        self.labels += [row.label(name) for name in names]
        self.expected |= bool(names) or nameless
        if nameless and not names:
            where = f"the label '' at {row.start_s:.3f}-{row.end_s:.3f} s" if row.is_box else "its label"
            reason = f"{where} has no name, and its folder names no single species: left out"
            self._leave_out(Remark(reason, "label-without-name"), NO_NAME, 1)
            self.unknown.append(row.label("?"))

    def _take_unknown(self, row: Row) -> None:
        unknown = [row.label(name) for name in row.names.unknown]
        self.unknown += unknown
        where = f"at {row.start_s:.3f} s" if row.start_s is not None else "of the whole file"
        reason = f"'{row.names.unknown[0]}' {where} is an unidentified bird: left out"
        self._leave_out(Remark(reason, "unidentified-bird"), UNKNOWN_BIRD, len(unknown))

    def _between(self, silences: list[Label]) -> list[Label]:
        """The stretches of which nobody says that there is no bird."""
        found, reached = [], 0.0
        for label in sorted(silences, key=lambda label: label.start_s or 0.0):
            if (label.start_s or 0.0) > reached:
                found.append(Label("what no box covers", reached, label.start_s))
            reached = max(reached, label.end_s or 0.0)
        if reached < self.info.duration_s:
            found.append(Label("what no box covers", reached, self.info.duration_s))
        return found

    def fitting(self) -> list[Label]:
        """The labels inside the recording, each once."""
        once = list(dict.fromkeys(self.labels))
        self.result.account.left_out[REPEATED] += len(self.labels) - len(once)
        return _fit(once, self.info, self._leave_out, self._note, self.unknown)

    def _leave_out(self, reason: str, code: str, labels: int = 1) -> None:
        self.result.leave_out(self.info.path, reason, code, labels)

    def _note(self, reason: str) -> None:
        self.result.problems.append(Problem(self.info.path, reason))


def _fit(
    labels: list[Label],
    info: AudioInfo,
    leave_out: Callable[[str, str], None],
    note: Callable[[str], None],
    unknown: list[Label],
) -> list[Label]:
    """Labels inside the recording: cut at its end, dropped where they lie outside; both are reported."""
    kept = []
    for label in labels:
        if label.start_s is None or label.end_s is None:
            kept.append(label)
            continue
        where = f"the label '{label.label}' at {label.start_s:.3f}-{label.end_s:.3f} s"
        if label.end_s < label.start_s:
            leave_out(f"{where} ends before it starts: left out", OUTSIDE)
            unknown.append(replace(label, start_s=label.end_s, end_s=label.start_s))
        elif label.start_s >= info.duration_s or label.end_s < 0 or label.start_s < 0 == label.end_s:
            lasts = f"the recording, which lasts {info.duration_s:.3f} s"
            leave_out(f"{where} lies outside {lasts}: left out", OUTSIDE)
        elif label.low_hz is not None and 2 * label.low_hz >= info.rate_hz:
            top = f"what {info.rate_hz} Hz can hold"
            leave_out(f"{where} lies at {label.low_hz:.0f} Hz, above {top}: left out", OUT_OF_BAND)
        else:
            if label.end_s > info.duration_s + _SLACK_S or label.start_s < -_SLACK_S:
                note(f"{where} is longer than the recording ({info.duration_s:.3f} s): cut to fit")
            channel = label.channel
            if channel is not None and not 1 <= channel <= info.channels:
                note(f"{where} is on channel {channel} of {info.channels}: the channel is ignored")
                channel = None
            end = min(label.end_s, info.duration_s)
            kept.append(replace(label, start_s=max(0.0, label.start_s), end_s=end, channel=channel))
    return kept
