"""sim2real: does generated sound help a classifier? Arms, amounts of real data, seeds; one page, one
sentence. With several classifiers: how each grows with recordings, in one picture."""

from __future__ import annotations

from dataclasses import asdict

from birdsd.cluster.rank.signals import run_control
from birdsd.errors import UserError
from birdsd.evaluation.sim2real.answer import Answer
from birdsd.evaluation.sim2real.text import answer_text, classifiers_text
from birdsd.files import write_json
from birdsd.jobs_api import STOPPED_STATUS, Outcome
from birdsd.pages.sim2real import classifiers_page, sim2real_page
from birdsd.schema import SimToRealConfig
from birdsd.sharing import beside_others, waiting_for
from birdsd.studies.sim2real.classify import check_classifiers
from birdsd.studies.sim2real.study import Experiment, differences
from birdsd.studies.stage_runner import Stopped

PAGE, FACTS = "report.html", "sim2real.json"
OF_ONE = ("report-{}.html", "sim2real-{}.json")  # of each, where there are several classifiers


def run(config: SimToRealConfig) -> Outcome:
    """Train this part's cells that are not there yet, and write the page of all that any task has trained."""
    names = check_classifiers(config.classifier)
    failed: dict[str, str] = {}
    with run_control() as control:
        first = Experiment(config, control)
        each = {name: first.with_classifier(name) if len(names) > 1 else first for name in names}
        try:
            with beside_others(first.work, str(first.part)):
                for name, experiment in each.items():
                    _trained(name, experiment, failed, alone=len(names) == 1)
        except Stopped as stopped:
            line = f"stopped before '{stopped}'; the same command goes on"
            return Outcome(line, {"out": config.out, "stopped_in": str(stopped)}, STOPPED_STATUS)
        with waiting_for(first.work / ".page.lock"):
            if len(names) > 1:
                return _compared(each, failed)
            found = first.answer()
            write_json(first.out / FACTS, found.to_json())
            page = sim2real_page(first.out / PAGE, found)
    facts = {"report": str(page), **found.to_json()}
    return Outcome(f"\n{answer_text(found)}\n\nreport: {page}", facts)


def _trained(name: str, experiment: Experiment, failed: dict[str, str], alone: bool) -> None:
    """Train the cells of one classifier. Where there are others, one that cannot be had is noted in
    `failed`."""
    try:
        experiment.run()
    except UserError as error:
        if alone:
            raise
        failed[name] = str(error)


def _compared(each: dict[str, Experiment], failed: dict[str, str]) -> Outcome:
    """The page of several classifiers, and beside it one of each; one that could not be trained at all is
    named, and the others are compared."""
    out = next(iter(each.values())).out
    answers: dict[str, Answer] = {}
    for name, experiment in each.items():
        if name not in failed:
            try:
                answers[name] = experiment.answer()
            except UserError as error:
                failed[name] = str(error)
    if not answers:
        raise UserError("; ".join(f"{name}: {why}" for name, why in failed.items()))
    reports = {}
    for name, found in answers.items():
        page, facts_file = (one.format(name) for one in OF_ONE)
        sim2real_page(out / page, found)
        write_json(out / facts_file, found.to_json())
        reports[name] = page
    found_apart = differences({name: each[name] for name in answers})
    page_of_all = classifiers_page(out / PAGE, answers, found_apart, reports)
    told = {
        "classifiers": {name: found.to_json() for name, found in answers.items()},
        "differences": [asdict(one) for one in found_apart],
        "failed": failed,
    }
    write_json(out / FACTS, told)
    lines = [classifiers_text(answers, found_apart), *(f"{name}: {why}" for name, why in failed.items())]
    return Outcome(
        "\n".join(["", *lines, "", f"report: {page_of_all}"]), {"report": str(page_of_all), **told}
    )
