"""What the judge says, as blocks of a page: the staircase, a table of species, and what stands beside it."""

from __future__ import annotations

from collections.abc import Sequence

from birdsd.evaluation.judged_run import JudgedRun
from birdsd.evaluation.judges.judgement import CONFIDENT
from birdsd.evaluation.measures import Measures
from birdsd.evaluation.real_clips import CHOICES, FIGURES
from birdsd.evaluation.staircase import CODEC, GENERATED, Named, Rate, Staircase
from birdsd.pages import page as html
from birdsd.pages.charts import Column, column_chart, meter
from birdsd.pages.markup import Html, element
from birdsd.pages.page import name

NAMED_AMONG = "right of the run's species"


def judged(run: JudgedRun | None) -> list[Html]:
    """The blocks of the section; `None`: nothing was judged."""
    if run is None:
        return [element("p", "Nothing was judged.")]
    if run.staircase is None:
        return [html.note(f"{run.absent[:1].upper()}{run.absent[1:]}.", warn=True), *measured(run.measures)]
    told = run.staircase
    if not told.known:
        said = (
            f"{told.credit} knows none of these species, so it was not asked, and only the weak check below "
            "speaks of them."
        )
        return [html.note(said), *measured(run.measures)]
    return [_intro(told), *_stairs(told), _species(told), *measured(run.measures)]


def _intro(told: Staircase) -> Html:
    split = {
        FIGURES: "The real clips are of the test recordings: nothing was trained on them and nothing was "
        "tuned on them. Settings are chosen on the validation recordings.",
        CHOICES: "There are no test recordings here, so the real clips are of the validation recordings, by "
        "which settings are chosen too: take their figures as flattering.",
    }.get(told.held_out, "No clip was held out, so there is nothing real to compare with.")
    return element(
        "p",
        f"{told.credit} is a classifier that knows thousands of species and never heard a generated clip. "
        "A clip counts as named right when the species that was asked for has the highest score of all its "
        "classes. "
        f"Short clips are padded with silence, real ones like generated ones. {split}",
    )


def _stairs(told: Staircase) -> list[Html]:
    steps = [(step, step.named) for step in told.steps if step.named is not None]
    chart = column_chart(
        [(step.title, [_column(rate) for rate in _rates(named)]) for step, named in steps],
        ["right of all classes", NAMED_AMONG, f"score at least {CONFIDENT:g}"],
        alt="The staircase: " + "; ".join(f"{s.title} {n.right.share:.0%} named right" for s, n in steps),
    )
    return [html.card(element("h3", "The staircase"), chart), *stairs_table(told)]


def stairs_table(told: Staircase) -> list[Html]:
    """The table of the stages, and what has to be said of it."""
    headers = ["Stage", "Right, of all classes", f"Right, of {len(told.known)}",
               f"Score \u2265 {CONFIDENT:g}", "Median score", "Clips"]  # fmt: skip
    rows: list[list[object]] = [
        [
            step.title,
            *(meter(rate.share, interval=(rate.low, rate.high), colour=n)
              for n, rate in enumerate(_rates(step.named), 1)),
            f"{step.named.median_score:.2f}",
            step.named.counted(),
        ]
        for step in told.steps
        if step.named is not None
    ]  # fmt: skip
    caption = (
        "The same held-out clips after each stage, and the generated ones below. Intervals: Wilson, 95%, "
        "over recordings, since clips of one recording are not independent, and over generated clips."
    )
    remarks = [element("p", one[:1].upper() + one[1:] + ".") for one in told.remarks()]
    table = html.table(headers, rows, caption=caption, numeric=(4, 5), wide=True)
    return [table, *([html.note(*remarks)] if remarks else [])]


def _rates(named: Named) -> tuple[Rate, Rate, Rate]:
    return named.right, named.among, named.confident


def _column(rate: Rate) -> Column:
    return Column(rate.share, (rate.low, rate.high))


def _species(told: Staircase) -> Html:
    """A row for each species: held-out clips through the codec, and generated ones."""
    by_stage = {step.stage: step.per_species for step in told.steps}
    held, made = (by_stage.get(stage, {}) for stage in (CODEC, GENERATED))

    def cells(named: Named | None, colour: int) -> Sequence[object]:
        if named is None:
            return ["\u2013", "\u2013", "\u2013", "0"]
        return [meter(named.right.share, colour=colour), f"{named.among.share:.0%}",
                f"{named.median_score:.2f}", named.clips]  # fmt: skip

    rows: list[list[object]] = [
        [name(one), *cells(held.get(one), 2), *cells(made.get(one), 1)] for one in told.known
    ]
    rows += [[name(one), "unknown to the judge", *[""] * 7] for one in told.unknown]
    headers = ["Species", "Held-out, codec", "of its own", "median", "clips",
               "Generated", "of its own", "median", "clips"]  # fmt: skip
    caption = (
        "Named right of all classes; of its own: of the run's species; median score of the right species. "
        "Species that the judge has no class for are excluded from all figures."
    )
    return html.table(headers, rows, caption=caption, numeric=(2, 3, 4, 6, 7, 8), wide=True)


def measured(measures: Measures) -> list[Html]:
    """The table of what a judge does not hear or forgives."""
    intro = element(
        "p",
        "Being named is necessary, not sufficient: BirdNET normalises the level and names birds in noise as "
        "loud as they are. So these stand beside it, each with the same figure of held-out clips through the "
        "codec.",
    )
    rows = [[row.title, *row.cells(), row.says] for row in measures.rows]
    caption = (
        f"{measures.held_out} held-out, {measures.generated} generated and {measures.training} training "
        "clips; species count equally."
    )
    headers = ["Measure", "Held-out", "Generated", "What it is"]
    return [element("h3", "Other measures"), intro,
            html.table(headers, rows, caption=caption, numeric=(1, 2), wide=True)]  # fmt: skip
