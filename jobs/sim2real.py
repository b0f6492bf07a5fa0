"""sim2real: does generated sound help a classifier? Arms, amounts of real data, seeds; one page, one
sentence."""

from __future__ import annotations

from birdsd.cluster.rank.signals import run_control
from birdsd.evaluation.sim2real.text import answer_text
from birdsd.files import write_json
from birdsd.jobs_api import STOPPED_STATUS, Outcome
from birdsd.pages.sim2real import sim2real_page
from birdsd.schema import SimToRealConfig
from birdsd.sharing import beside_others, waiting_for
from birdsd.studies.sim2real.study import Experiment
from birdsd.studies.stage_runner import Stopped

PAGE, FACTS = "report.html", "sim2real.json"


def run(config: SimToRealConfig) -> Outcome:
    """Train this part's cells that are not there yet, and write the page of all that any task has trained."""
    with run_control() as control:
        experiment = Experiment(config, control)
        try:
            with beside_others(experiment.work, str(experiment.part)):
                experiment.run()
        except Stopped as stopped:
            line = f"stopped before '{stopped}'; the same command goes on"
            return Outcome(line, {"out": config.out, "stopped_in": str(stopped)}, STOPPED_STATUS)
        with waiting_for(experiment.work / ".page.lock"):
            found = experiment.answer()
            write_json(experiment.out / FACTS, found.to_json())
            page = sim2real_page(experiment.out / PAGE, found)
    facts = {"report": str(page), **found.to_json()}
    return Outcome(f"\n{answer_text(found)}\n\nreport: {page}", facts)
