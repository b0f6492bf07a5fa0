"""A small prepared set that tests may read, and must not change."""

from __future__ import annotations

from pathlib import Path

import pytest

from birdsd.shards.prepare.prepare import prepare
from tests.support.shard_makers import CODEC, data_config, tone_folder


@pytest.fixture(scope="session")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tone_folder(tmp_path_factory.mktemp("tones"), species=3, recordings=6)


@pytest.fixture(scope="session")
def prepared(tones: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared") / "shards"
    prepare(data_config(tones, folder, samples_per_shard=4), CODEC, processes=1, progress=False)
    return folder
