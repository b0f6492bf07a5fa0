"""What a stranger found: other data under one name, half an environment, more than a node has."""

from __future__ import annotations

import io
import os
import tarfile

import numpy as np
import pytest

from birdsd.cluster.rank.ranks import launched
from birdsd.cluster.script_lines import check_words
from birdsd.config import compose
from birdsd.diffusion.generation.generator import pipeline_folder
from birdsd.errors import BadValue, NotSet, Unsupported
from birdsd.runs.resources import resources
from birdsd.schema import SiteConfig
from birdsd.shards.index import ShardIndex
from birdsd.shards.inspect import describe, text
from tests.support.errors import refuses


def foreign(folder, value: int, metadata: str = '{"captions": ["a Wren"]}'):
    folder.mkdir()
    with tarfile.open(folder / "train-000.tar", "w") as tar:
        for key in ("a", "b"):
            picture = io.BytesIO()
            np.save(picture, np.tile(np.arange(16, dtype=np.uint8) * 16 + value, (16, 1)))
            for suffix, data in (("npy", picture.getvalue()), ("json", metadata.encode())):
                entry = tarfile.TarInfo(f"{key}.{suffix}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    return folder


def test_other_pictures_under_the_same_names_are_another_set(tmp_path):
    first, second = foreign(tmp_path / "a", 0), foreign(tmp_path / "b", 1)
    assert ShardIndex.open(first).fingerprint != ShardIndex.open(second).fingerprint
    again = foreign(tmp_path / "c", 0)
    os.utime(again / "train-000.tar", (1, 1))
    assert ShardIndex.open(again).fingerprint == ShardIndex.open(first).fingerprint


def test_shards_that_say_nothing_about_species_do_not_say_that_there_is_no_bird(tmp_path):
    facts = describe(foreign(tmp_path / "a", 0))
    assert facts["no_bird"] == {} and facts["not_stated"] == {"train": 2} and "(not stated)" in text(facts)
    facts = describe(foreign(tmp_path / "b", 0, '{"captions": ["rain"], "species": []}'))
    assert facts["no_bird"] == {"train": 2} and facts["not_stated"] == {}


@pytest.mark.parametrize(
    "environ",
    [{"WORLD_SIZE": "2"}, {"RANK": "0"}, {"RANK": "x", "WORLD_SIZE": "2"}, {"RANK": "0", "WORLD_SIZE": ""}],
)
def test_half_an_environment_of_ranks_is_refused(environ):
    with refuses("the environment has", "RANK and WORLD_SIZE", kind=NotSet):
        launched(environ)


@pytest.mark.parametrize("option", ["array", "output", "signal", "no-requeue", "no_requeue", "wrap"])
def test_options_that_birdsd_stands_on_are_not_overridden(option):
    site = {"partition": "p", "account": None, "qos": None, "constraint": None, "gpu_type": None}
    with refuses(f"site.sbatch.{option} ", kind=BadValue):
        check_words({**site, "sbatch": {option: "x"}})
    check_words({**site, "sbatch": {"mail-type": "END", "gres": "tmp:10G"}})


@pytest.mark.parametrize(
    ("gpus", "cpus", "tasks", "expected"), [(0, 128, 2, 64), (1, 128, 2, 64), (2, 8, 4, 4), (2, 8, 2, 8)]
)
def test_tasks_share_the_cpus_of_a_node(gpus, cpus, tasks, expected):
    site = SiteConfig(name="s", executor="slurm", gpus_per_node=gpus, cpus_per_task=cpus)
    settled = compose("train", ["machine=smoke"])
    assert resources(site, 1, tasks, "train", settled).site.cpus_per_task == expected


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_settings_are_finite_numbers(value):
    with refuses(f"optim.learning_rate is {value}", kind=BadValue):
        compose("train", [f"optim.learning_rate={value}"])


def test_a_part_of_a_model_generates_nothing_and_that_is_said(tmp_path):
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "config.json").write_text("{}")
    with refuses(str(tmp_path), f"birdsd status {tmp_path.name}", kind=Unsupported):
        pipeline_folder(tmp_path)
