"""methods: every method teaches the same birds to the same model; a table and a page compare them."""

from __future__ import annotations

from birdsd.cluster.experiment import Experiment
from birdsd.cluster.experiment_arms import methods
from birdsd.cluster.experiment_report import carry_out
from birdsd.cluster.handover import attendant
from birdsd.cluster.jobs import Outcome
from birdsd.schema import MethodsConfig


def run(config: MethodsConfig) -> Outcome:
    """Shards -> a base model of some species -> every method teaches it the others -> clips -> a page."""
    with attendant() as who:
        return carry_out(Experiment(config, methods(config), who))
