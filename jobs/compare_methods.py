"""compare_methods: every method teaches the same birds to the same model; a table and a page compare them."""

from __future__ import annotations

from birdsd.cluster.rank.signals import attendant
from birdsd.jobs_api import Outcome
from birdsd.schema import MethodsConfig
from birdsd.studies.arms import compare_methods
from birdsd.studies.results import carry_out
from birdsd.studies.study import Study


def run(config: MethodsConfig) -> Outcome:
    """Shards -> a base model of some species -> every method teaches it the others -> clips -> a page."""
    with attendant() as who:
        return carry_out(Study(config, compare_methods(config), who))
