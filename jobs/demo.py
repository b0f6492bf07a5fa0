"""demo: the whole way once, with a kill in the middle, and a page that shows what came of it."""

from __future__ import annotations

from birdsd.cluster.demo import Demo
from birdsd.cluster.demo_report import write_report
from birdsd.cluster.jobs import Outcome
from birdsd.schema import DemoConfig


def run(config: DemoConfig) -> Outcome:
    """Recordings -> shards -> autoencoder -> diffusion, killed and resumed -> sound -> check -> page."""
    demo = Demo(config)
    shards = demo.prepare(demo.recordings())
    autoencoder = demo.train("autoencoder", shards, config.autoencoder_samples)
    demo.train_on(autoencoder)
    diffusion = demo.train("full", shards, config.diffusion_samples, kill=True)
    clips = demo.generate(diffusion, shards)
    report, check = write_report(demo, shards, [autoencoder, diffusion], clips)
    text = f"\n{check.text() if check else ''}\n\nlook and listen: {report}"
    return Outcome(
        text,
        {"report": str(report), "shards": str(shards.folder), "check": check.to_json() if check else None},
    )
