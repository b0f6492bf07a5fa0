"""demo: the whole way once, with a kill in the middle, and a page that shows what came of it."""

from __future__ import annotations

from birdsd.cluster.demo import Demo
from birdsd.cluster.demo_report import write_report
from birdsd.cluster.jobs import Outcome
from birdsd.schema import DemoConfig


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
        f"\n{report.words}\n\nlook and listen: {report.page}",
        {"report": str(report.page), "shards": str(shards.folder), "check": report.told},
    )
