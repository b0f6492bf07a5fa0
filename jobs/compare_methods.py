"""compare_methods: trains the same model on the same birds with every method; a table and a page."""

from __future__ import annotations

from birdsd.cluster.rank.signals import run_control
from birdsd.jobs_api import Outcome
from birdsd.schema import MethodsConfig
from birdsd.studies.arms import compare_methods
from birdsd.studies.results import carry_out
from birdsd.studies.study import Study


def run(config: MethodsConfig) -> Outcome:
    """Shards -> a base model of some species -> every method on the others -> clips -> a page."""
    with run_control() as control:
        return carry_out(Study(config, compare_methods(config), control))
