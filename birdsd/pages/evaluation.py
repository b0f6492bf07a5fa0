"""The page of an evaluation: figures, curves, the confusion table, and the worst mistakes to listen to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from markupsafe import Markup

from birdsd.errors import UserError
from birdsd.evaluation.classification.evaluation import (
    Evaluation,
    Mistake,
    class_cells,
    class_head,
    interval_text,
)
from birdsd.evaluation.classification.figures import ACCURACY, CMAP, F1, MEANINGS
from birdsd.pages.charts import Curve, confusion_table, line_chart
from birdsd.pages.media import picture_levels, spectrogram
from birdsd.pages.page import Page, table
from birdsd.sound.audio.recordings import resampled
from birdsd.sound.codec.grids import grid_of_length

_MOST_CURVES = 5
_MOST_IN_CONFUSION = 60
_CONFUSION = "What is there, and what scored highest"
_SHOWN_RATE_HZ = 32000
_FRAMES = 512


def write_evaluation_page(out: Path, result: Evaluation) -> Path:
    """Write the page to `out` (one self-contained HTML file) and return the path."""
    judge = result.hearing.judge
    lead = [
        f"{name} {interval_text(result.means[name], 2)}"
        for name in (ACCURACY, CMAP, F1)
        if name in result.means
    ]
    page = Page(
        title=f"How well {judge.title} names birds",
        lead=f"{'; '.join(lead)}: on {len(result.table.items)} sounds of {result.recordings} recordings. In "
        "brackets 95% intervals over recordings.",
        badges=("birdsd evaluate", judge.title, judge.licence),
        footer="Made by birdsd. This page needs no network: sounds and images are embedded in the file.",
    )
    names, counts = result.figures.confusion()
    figures = [
        [name, interval_text(interval), MEANINGS.get(name, "")] for name, interval in result.means.items()
    ]
    events = result.events.cells() if result.events else []
    confusion = confusion_table(names, counts.tolist(), _CONFUSION, "is there", "named")
    page.fill(
        "evaluation.html", result=result, curves=_curves(result), reliability=_reliability(result),
        figures=table(["figure", "value", "what it is"], figures, numeric=(1,)),
        classes=table(class_head(), [class_cells(row) for row in result.classes],
                      numeric=tuple(range(1, len(class_head()))), wide=True),
        confusion=confusion if len(names) <= _MOST_IN_CONFUSION else None,
        events=table(events[0], events[1:], numeric=tuple(range(1, 6)), total=True) if events else None,
        mistakes=[_mistake(result, one) for one in result.mistakes],
        leaks=[[leak.kind, f"{leak.first_split}: {leak.first}", f"{leak.second_split}: {leak.second}",
                leak.detail] for leak in (result.leaks.found if result.leaks else [])[:100]],
    )  # fmt: skip
    return page.write(out)


def _curves(result: Evaluation) -> Markup:
    """Precision over recall: all classes together, and those whose average precision is lowest."""
    from sklearn.metrics import precision_recall_curve

    scored = result.table
    ranked = sorted(
        (row for row in result.classes if np.isfinite(row.figures["AP"].estimate)),
        key=lambda row: row.figures["AP"].estimate,
    )
    if not ranked:
        return Markup('<p class="quiet">Precision over recall needs sounds with and without a class.</p>')
    there = scored.present
    drawn = [("all classes together", scored.truth[:, there].ravel(), scored.logits[:, there].ravel())]
    for row in ranked[:_MOST_CURVES]:
        number = scored.classes.index(row.name)
        drawn.append((row.name, scored.truth[:, number], scored.logits[:, number]))
    curves = []
    for colour, (name, truth, logits) in enumerate(drawn, 1):
        precision, recall, _ = precision_recall_curve(truth, logits)
        curves.append(Curve(name, recall[::-1], precision[::-1], "line", colour))
    lowest = ", ".join(f"{row.name} {row.figures['AP'].estimate:.2f}" for row in ranked[:_MOST_CURVES])
    return line_chart(
        curves, x_label="recall", y_label="precision",
        alt=f"Precision over recall; average precision: {lowest}",
        caption=f"All classes together, and the {min(len(ranked), _MOST_CURVES)} with the lowest average "
        "precision.",
    )  # fmt: skip


def _reliability(result: Evaluation) -> Markup:
    """How often the class with the highest score is right, by that score."""
    figures = result.figures
    several = len(result.table.classes) > 1
    bins = (figures.confidence if several else figures.pairs).bins()
    curves = [
        Curve("as sure as it is right", [0.0, 1.0], [0.0, 1.0], "pale", 2),
        Curve("measured", bins.confidence, bins.right, "line", 1),
        Curve("measured, each bin", bins.confidence, bins.right, "dots", 1),
    ]
    what = "the highest score of each sound" if several else "every score"
    counts = ", ".join(
        f"{right:.2f} at {confidence:.2f} ({count})"
        for confidence, right, count in zip(bins.confidence, bins.right, bins.count, strict=True)
    )
    return line_chart(
        curves, x_label="score", y_label="share that is right", alt=f"Calibration: {counts}",
        caption=f"Of {what}, in 15 bins. Below the pale line the judge is surer than it is right.",
    )  # fmt: skip


def _mistake(result: Evaluation, one: Mistake) -> Markup:
    """A mistake with its sound and picture; in words alone where it cannot be read any more."""
    judge = result.hearing.judge
    there = ", ".join(one.there) or "no bird"
    score = "" if one.score_there is None else f" {one.score_there:.2f}"
    title = f"{there}{score}; {one.named} {one.score:.2f}"
    words = f"{one.item.name}, from {one.item.start_s:.1f} s"
    try:
        waveform, rate_hz = one.item.sound.stretch(judge, one.item.start_s, judge.window_s)
    except UserError as error:
        return Markup("<p>{}: {}. It cannot be read any more: {}</p>").format(title, words, str(error))
    sound = resampled(np.atleast_2d(waveform).mean(axis=0, keepdims=True), rate_hz, _SHOWN_RATE_HZ)
    length_s = max(0.2, sound.shape[1] / _SHOWN_RATE_HZ)
    codec = grid_of_length("page", _SHOWN_RATE_HZ, length_s, _FRAMES, 12000.0)
    return spectrogram(
        picture_levels(codec, codec.encode(sound, _SHOWN_RATE_HZ)), codec, title=title,
        alt=f"{there} taken for {one.named}: {words}", waveform=sound, rate_hz=_SHOWN_RATE_HZ,
        caption=". ".join(filter(None, [words, one.item.sound.credit])),
    )  # fmt: skip
