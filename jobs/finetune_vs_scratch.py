"""finetune_vs_scratch: fine-tuned or from scratch, on song or on song and environment; a table and a page."""

from __future__ import annotations

from birdsd.cluster.rank.signals import run_control
from birdsd.jobs_api import Outcome
from birdsd.schema import FourWaysConfig
from birdsd.studies.arms import finetune_vs_scratch
from birdsd.studies.results import carry_out
from birdsd.studies.study import Study


def run(config: FourWaysConfig) -> Outcome:
    """Shards with and without environment -> a base model -> four models -> clips -> judges -> page."""
    with run_control() as control:
        return carry_out(Study(config, finetune_vs_scratch(config), control))
