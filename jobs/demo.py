"""demo: the complete pipeline once, with a kill in the middle, and a page with the results."""

from __future__ import annotations

from birdsd.jobs_api import Outcome
from birdsd.schema import DemoConfig
from birdsd.studies.demo_results import write_report
from birdsd.studies.demo_stages import Demo


def run(config: DemoConfig) -> Outcome:
    """Recordings -> shards -> autoencoder -> diffusion, killed and resumed -> sound -> check -> page."""
    demo = Demo(config)
    recordings = demo.recordings()
    shards = demo.prepare(recordings)
    autoencoder = demo.train("autoencoder", shards, config.autoencoder_samples)
    demo.train_on(autoencoder)
    diffusion = demo.train("full", shards, config.diffusion_samples, kill=True)
    clips = demo.generate(diffusion, shards)
    report = write_report(demo, shards, [autoencoder, diffusion], clips, recordings)
    return Outcome(
        f"\n{report.text}\n\nreport: {report.page}",
        {"report": str(report.page), "shards": str(shards.folder), "check": report.facts},
    )
