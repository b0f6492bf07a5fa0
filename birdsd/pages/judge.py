"""What the judge says, as blocks of a page: templates/judge.html has the words."""

from __future__ import annotations

from markupsafe import Markup

from birdsd.evaluation.judged_run import JudgedRun
from birdsd.evaluation.judges.judgement import CONFIDENT
from birdsd.evaluation.real_clips import CHOICES, FIGURES
from birdsd.evaluation.staircase import CODEC, GENERATED, Staircase
from birdsd.pages.environment import macro

_SPLITS = {"test": FIGURES, "validation": CHOICES}
clip_caption = macro("judge.html", "clip_caption")


def judged(run: JudgedRun | None) -> Markup:
    """The staircase, a table of species, and what is measured beside it; None: nothing was judged."""
    per_species = {}
    if run is not None and run.staircase is not None:
        per_species = {step.stage: step.per_species for step in run.staircase.steps}
    held_out, generated = per_species.get(CODEC, {}), per_species.get(GENERATED, {})
    return macro("judge.html", "judged")(run, held_out, generated, _SPLITS, CONFIDENT)


def stages_table(stages: Staircase) -> Markup:
    """The table of the stages, and what has to be said of it."""
    return macro("judge.html", "stages_table")(stages, CONFIDENT)
