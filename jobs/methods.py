"""methods: every method teaches the same birds to the same model; a table and a page compare them."""

from __future__ import annotations

from birdsd.cluster.rank.signals import run_control
from birdsd.jobs_api import Outcome
from birdsd.schema import MethodsConfig
from birdsd.studies.arms import methods
from birdsd.studies.results import carry_out
from birdsd.studies.study import Experiment


def run(config: MethodsConfig) -> Outcome:
    """Shards -> a base model of some species -> every method teaches it the others -> clips -> a page."""
    with run_control() as control:
        return carry_out(Experiment(config, methods(config), control))
