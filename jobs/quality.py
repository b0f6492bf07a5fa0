"""quality: generated clips between a floor of real recordings and a ceiling of wrong species; a page and
JSON."""

from __future__ import annotations

from pathlib import Path

from birdsd.errors import BadValue, NotSet
from birdsd.evaluation.embedded.cache import EmbeddingCache
from birdsd.evaluation.embedded.measured import measure_folder
from birdsd.evaluation.judges import find_judge
from birdsd.files import write_json
from birdsd.jobs_api import Outcome
from birdsd.pages.quality import quality_page
from birdsd.runs.models.judges import judge_place
from birdsd.schema import QualityConfig
from birdsd.shards.index import ShardIndex

PAGE, FACTS = "report.html", "quality.json"


def run(config: QualityConfig) -> Outcome:
    """Measure the clips of a folder against the real clips of the shards."""
    for name in ("sounds", "shards"):
        if not getattr(config, name):
            raise NotSet(
                f"{name} is not set", "generated clips are compared with the real ones of their shards",
                "sounds=FOLDER shards=FOLDER",
            )  # fmt: skip
    if config.resamples < 1:
        raise BadValue(f"resamples={config.resamples}", "it must be at least 1", "resamples=1000")
    out, judge = Path(config.out), find_judge(judge_place(config.judge, Path("runs")))
    index = ShardIndex.open(str(config.shards))
    cache = EmbeddingCache(judge, out / "embeddings")
    found = measure_folder(
        Path(str(config.sounds)), index, judge, cache, resamples=config.resamples, seed=config.seed
    )
    write_json(out / FACTS, found.to_json())
    page = quality_page(out / PAGE, found, str(config.sounds), str(config.shards))
    return Outcome(f"{found.text()}\n\nreport: {page}", {"report": str(page), **found.to_json()})
