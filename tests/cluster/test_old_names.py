"""Jobs that were queued before modules moved: what their pickles and batch scripts name is still there."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from birdsd.cluster.task import RankTask
from birdsd.runs.allocations import request_stop
from tests.support.histories import History

# RankTask("train", ["model=tiny"], "/run", "/cwd", 3), as a queued job's pickle names it: by its module.
QUEUED = b"cbirdsd.cluster.task\nRankTask\n(S'train'\n(lS'model=tiny'\naS'/run'\nS'/cwd'\nI3\ntR."


def called(module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_pickle_of_a_queued_job_loads() -> None:
    assert pickle.loads(QUEUED) == RankTask("train", ["model=tiny"], "/run", "/cwd", 3)
    assert b"birdsd.cluster.task" in pickle.dumps(RankTask("train", [], "/run", "/cwd"))


@pytest.mark.parametrize("module", ["birdsd.cluster.next_allocation", "birdsd.cluster.aftermath"])
def test_the_last_line_of_a_queued_batch_script(tmp_path: Path, module: str) -> None:
    history = History(tmp_path)
    history.submitted(0, ["7"], executor="local")
    request_stop(history.folder, "somebody")
    ended = called(module, history.folder, 0)
    assert ended.returncode == 0 and ended.stdout.startswith("birdsd: stop: somebody asked"), ended
    missing = called(module, tmp_path / "nowhere-full-0123456789ab", 0)
    assert missing.returncode == 2 and missing.stderr.startswith("birdsd: ")


@pytest.mark.parametrize("module", ["birdsd.cluster.local", "birdsd.cluster.supervisor"])
def test_the_local_supervisor_by_either_name(tmp_path: Path, module: str) -> None:
    history = History(tmp_path)
    assert called(module, history.folder).returncode == 2, "nothing was submitted"
    missing = called(module, tmp_path / "nowhere-full-0123456789ab")
    assert missing.returncode == 2 and missing.stderr.startswith("birdsd: ")
