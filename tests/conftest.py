"""Fixtures that many tests share."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from tests.support.testbed import testbed_missing

# Tests that run beside others share the cores: with as many threads each as there are cores, those of one
# wait in a loop for cores that the others have. Set before torch is imported, and passed on to what they
# start.
if os.environ.get("PYTEST_XDIST_WORKER"):
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# About how many seconds the longest files take on a core. `make test` hands out whole files in the order in
# which they are collected: the longest begin, so that at the end none is left that one worker alone has to
# wait for.
LONGEST_S = {
    "test_gpu_check.py": 310, "cluster/test_cluster_runs.py": 300, "studies/test_demo.py": 220,
    "studies/test_study.py": 215, "diffusion/methods/test_taught_runs.py": 210, "test_bench.py": 190,
    "test_notebook.py": 180, "planning/test_trace.py": 170, "docs/test_commands_run.py": 160,
    "checks/verify/test_verify.py": 145, "studies/test_sim2real_array.py": 120, "cli/test_busy.py": 115,
    "training/engines/test_worlds.py": 110, "evaluation/embedded/test_real.py": 105,
    "cli/test_quiet.py": 100, "runs/status/test_what_next.py": 100,
    "scenes/compose/test_scene_array.py": 85, "training/checkpoints/test_failed_saves.py": 70,
    "diffusion/generation/test_generate.py": 55, "test_golden.py": 50,
    "diffusion/formats/test_formats_field.py": 40, "training/test_early.py": 40,
    "training/engines/test_out_of_memory.py": 35, "training/engines/test_small_memory.py": 30,
}  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first; of the others those with the most tests, as without an order of ours."""
    root = Path(__file__).parent
    files = [item.path.relative_to(root).as_posix() for item in items if item.path.is_relative_to(root)]
    count = Counter(files)
    if len(files) == len(items):
        order = sorted(dict.fromkeys(files), key=lambda file: (-LONGEST_S.get(file, 0), -count[file]))
        place = {file: number for number, file in enumerate(order)}
        items.sort(key=lambda item: place[item.path.relative_to(root).as_posix()])


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real recordings; the test is skipped, with the reason, where there is none."""
    named = os.environ.get("BIRDSD_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not (folder / "manifest.csv").is_file():
        pytest.skip(f"no real recordings at {folder}: set BIRDSD_DATA to a folder that has manifest.csv")
    return folder


@pytest.fixture(scope="session")
def testbed() -> None:
    """The cluster of `make slurm-up`; the test is skipped, with the reason, where it does not run."""
    if reason := testbed_missing():
        pytest.skip(reason)
