"""four_ways: fine-tuned or from scratch, on song or on song and environment; a table and a page."""

from __future__ import annotations

from birdsd.cluster.experiment import Experiment
from birdsd.cluster.experiment_arms import four_ways
from birdsd.cluster.experiment_report import carry_out
from birdsd.cluster.handover import attendant
from birdsd.cluster.jobs import Outcome
from birdsd.schema import FourWaysConfig


def run(config: FourWaysConfig) -> Outcome:
    """Shards with and without environment -> a base model -> four models -> clips -> judges -> page."""
    with attendant() as who:
        return carry_out(Experiment(config, four_ways(config), who))
