"""What Python imports first in every process of a fault drill (this folder is put on PYTHONPATH).

It trades the diffusion model for the toy learner of tests/support, so that a drill takes seconds, and
makes happen inside the processes what cannot be done to them from outside: a kill at a named point of
a save, a slow save, a clock that jumps. The file named by BIRDSD_DRILL says which.
"""

import importlib.abc
import importlib.util
import json
import os
import signal
import sys
import time
from pathlib import Path


class _Patcher(importlib.abc.MetaPathFinder):
    """Calls a function on a module as soon as it was imported."""

    def __init__(self, patches):
        self.patches = patches

    def find_spec(self, name, path=None, target=None):
        patch = self.patches.pop(name, None)
        if patch is None:
            return None
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def load_and_patch(module):
            load(module)
            patch(module)

        spec.loader.exec_module = load_and_patch
        return spec


def _toy(drill):
    def patch(methods):
        def make(config, index):
            from tests.support.toy import ToyMethod

            class Slowly(ToyMethod):
                def encode_batch(self, parts, batch):
                    time.sleep(drill.get("step_s", 0.1))
                    return super().encode_batch(parts, batch)

            return Slowly(config, index)

        methods.make_method = make

    return patch


def _saves(drill, folder):
    kills = drill.get("kill_at", [])
    done = folder / "kills-done"
    rank = int(os.environ.get("SLURM_PROCID") or os.environ.get("SUBMITIT_LOCAL_GLOBALID") or 0)

    def patch(checkpoint):
        def stage(now):
            if now == "begun" and drill.get("slow_save_s"):
                (folder / f"saving-{rank}").write_text(str(time.time()))
                time.sleep(drill["slow_save_s"])
            number = len(done.read_text()) if done.is_file() else 0
            # Not in the very first save: there must be something to go back to.
            first = not any(checkpoint_folder(folder).glob("*/COMMIT.json"))
            if rank == 0 and number < len(kills) and now == kills[number] and not first:
                done.write_text("x" * (number + 1))
                os.kill(os.getpid(), signal.SIGKILL)

        checkpoint.stage = stage

    return patch


def checkpoint_folder(folder):
    return next(iter(folder.glob("runs/*/checkpoints")), folder / "none")


def _jumping_clock(drill):
    real, began = time.time, time.monotonic()

    def jumping():
        # An hour back after two seconds, and two hours forward after four.
        passed = time.monotonic() - began
        return real() + (0 if passed < 2 else -3600 if passed < 4 else 7200)

    time.time = jumping


def _begin():
    told = Path(os.environ["BIRDSD_DRILL"])
    drill = json.loads(told.read_text())
    sys.meta_path.insert(
        0,
        _Patcher(
            {
                "birdsd.diffusion.methods": _toy(drill),
                "birdsd.training.checkpoints.checkpoint": _saves(drill, told.parent),
            }
        ),
    )
    if drill.get("clock_jumps"):
        _jumping_clock(drill)


if os.environ.get("BIRDSD_DRILL"):
    _begin()
