"""Running jobs one after the other as processes of their own, with what each cost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from birdsd.errors import UserError
from birdsd.files import read_json, write_json


@dataclass(frozen=True)
class Cost:
    """What one stage took: wall and processor seconds of all its processes, and the peak resident memory
    of the largest in MiB. `disturbed`: something was done to it on purpose."""

    stage: str
    wall_s: float
    cpu_s: float
    peak_mib: float
    disturbed: bool = False


class Stages:
    """Runs `birdsd VERB JOB SETTINGS --json` as a child, and keeps the costs in FOLDER/costs.json.

    A stage that finds its work done already keeps the costs of the time when it did the work.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._path = self.folder / "costs.json"
        self.costs: dict[str, Cost] = {}
        if self._path.is_file():
            self.costs = {entry["stage"]: Cost(**entry) for entry in read_json(self._path)}

    def run(
        self,
        stage: str,
        job: str,
        settings: Sequence[str],
        submitted: bool = False,
        disturb: Callable[[], bool] = lambda: True,
    ) -> dict[str, Any]:
        """Run one job here, or `submitted` as a job of its own and waited for; returns its facts.

        `disturb` is called now and then while it runs, until it says that it has done what it wanted to.
        Raises `UserError` if the job fails.
        """
        print(f"\n== {stage}", flush=True)
        how = ["submit", job, *settings, "--wait"] if submitted else ["run", job, *settings]
        command = [sys.executable, "-m", "birdsd.cli", *how, "--json"]
        start = time.monotonic()
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            disturbed = self._watch(child, disturb)
            assert child.stdout is not None
            output = child.stdout.read()
            _, status, usage = os.wait4(child.pid, 0)
        except BaseException:
            # Ctrl-C reaches the child too; it saves before it leaves, and nobody else may begin till then.
            child.terminate()
            child.wait()
            raise
        child.returncode = os.waitstatus_to_exitcode(status)
        cost = Cost(
            stage,
            round(time.monotonic() - start, 2),
            round(usage.ru_utime + usage.ru_stime, 2),
            round(usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 1024), 1),
            disturbed,
        )
        if child.returncode != 0:
            raise UserError(
                f"the stage '{stage}' ended with status {child.returncode}", "its own message is above"
            )
        facts: dict[str, Any] = json.loads(output)
        if stage not in self.costs or not facts.get("nothing_to_do"):
            self._keep(cost)
        return facts

    def _keep(self, cost: Cost) -> None:
        self.costs[cost.stage] = cost
        write_json(self._path, [asdict(entry) for entry in self.costs.values()])

    @staticmethod
    def _watch(child: subprocess.Popen[str], disturb: Callable[[], bool]) -> bool:
        """Whether something was done to the child before it ended by itself.

        Its exit is only looked at, not reaped, so that the later wait4 still finds its usage."""
        if disturb():
            return False  # there was nothing to do
        while os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if disturb():
                return True
            time.sleep(0.2)
        return False
