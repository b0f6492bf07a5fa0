"""prepare: recordings -> labelled spectrogram shards. Run again, it does only what is missing."""

from __future__ import annotations

from typing import Any

from birdsd.evaluation.judges.labels import names_of_one_species
from birdsd.jobs_api import Outcome
from birdsd.runs.share import ArrayShare
from birdsd.schema import PrepareConfig
from birdsd.shards.inspect import species_table
from birdsd.shards.prepare.account import account_lines, limit_lines
from birdsd.shards.prepare.prepare import PrepareReport, prepare
from birdsd.sound.codec.protocol import Codec


def run(config: PrepareConfig) -> Outcome:
    """Cut, encode and write the shards in parallel; list what they contain and what was left out."""
    codec = Codec.from_config(config.codec)
    part = ArrayShare.parse(config.part)
    report = prepare(config.data, codec, config.machine.processes, part=part)
    facts = {
        **report.facts,
        "folder": str(report.folder),
        "part": str(part),
        "finished": report.finished,
        "shards_written": report.written,
        "shards_present": report.present,
        "nothing_to_do": report.nothing_to_do,
    }
    if report.finished:
        facts["names_of_one_species"] = names_of_one_species(facts["species"])
    else:
        state = f"{report.present} of {report.total} shards exist; other parts are still working"
        return Outcome(f"{report.folder}: part {part} wrote {report.written} shards; {state}", facts)
    return Outcome("\n".join(_lines(report, facts, config)), facts)


def _lines(report: PrepareReport, facts: dict[str, Any], config: PrepareConfig) -> list[str]:
    if report.nothing_to_do:
        progress = "nothing to do: the shards are finished"
    else:
        progress = f"{report.written} of {report.total} shards written"
    lines = [f"{report.folder}: {progress} (fingerprint {facts['fingerprint']})"]
    lines += [
        f"  {split:11} {of['samples']} samples of {of['recordings']} recordings, {of['hours']:.2f} h"
        for split, of in facts["splits"].items()
    ]
    lines += ["", *species_table(facts)]
    lines += [
        f"one species to BirdNET, but counted as {len(names)}: {', '.join(names)}; give their recordings one "
        "name, or both names in one cell ('Black Phoebe (Sayornis nigricans)')"
        for names in facts["names_of_one_species"]
    ]
    if count := facts["problems"]:
        lines += ["", f"left out or noted: {count}, with the reasons in {report.folder / 'problems.json'}"]
        lines += [f"  {entry['path']}: {entry['reason']}" for entry in facts["problem_list"][:10]]
    if facts["skipped"]:
        lines += [f"skipped clips: {facts['skipped']}, also in problems.json with the reasons"]
    if "account" in facts:  # sets that older versions prepared have none
        lines += ["", *account_lines(facts["account"])]
        lines += limit_lines(facts["account"], config.data)
    lines += ["", f"look at {report.folder / 'contact_sheet.png'} and {report.folder / 'README.md'}"]
    return lines
