"""Stage 6: `birdsd verify` on the card: runs that are killed, changed and resumed learn the same."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from bench.gpu_check.course import Item
from bench.gpu_check.learning import shards_of
from bench.gpu_check.settings import Settings, birdsd
from birdsd.files import read_json

TORCH, ZERO = "plain torch", "ZeRO"
ITEMS = (Item(TORCH, share=1), *([Item(ZERO, share=2)] if find_spec("deepspeed") else []))
REHEARSED = (TORCH,)


def run(item: str, settings: Settings, limit_s: float) -> Iterator[dict[str, Any]]:
    """A row for each check. On one card there is one rank: NCCL takes no two."""
    out = settings.work_folder / f"verify-{item.replace(' ', '-')}"
    shutil.rmtree(out, ignore_errors=True)  # it wants an empty one
    words = ["model=tiny", f"machine.device={settings.device}", "machine.micro_batch=4"]
    words += ["optim.global_batch=4", *_at_hand(settings)]
    stages, kills, steps = ("2,3", 2, 12) if item == ZERO else ("0", 3, 12)
    if settings.cpu:  # the method whose processes start the fastest
        kills, steps = 1, 4
        words += ["method=autoencoder", "method.crop_frames=64", "machine.threads=1"]
    trial = ["--worlds", "1", "--stages", stages, "--kills", str(kills), "--steps", str(steps)]
    done = subprocess.run(
        birdsd("verify", *words, *trial, "--out", str(out), "--json"), stdout=subprocess.PIPE, text=True
    )
    found = json.loads(done.stdout or "{}")
    if "checks" not in found:  # refused, with the reason on standard error
        sys.exit(done.returncode or 1)
    says = f"stages {stages}: {found['steps']} steps, {kills} kills, {found['seconds']:.0f} s"
    where = {"device": found["device"], "precision": found["precision"]}
    yield {"table": "verify", "what": "trial", **where, "says": says}
    for check in found["checks"]:
        passed = "yes" if check["passed"] else "NO"
        yield {"table": "verify", "what": check["name"], "passed": passed, "says": check["found"]}
    if not found["passed"]:
        sys.exit("verify found something: see verify.json")


def _at_hand(settings: Settings) -> list[str]:
    """Shards and an autoencoder of the stage before, which need not be made then."""
    made = settings.work_folder / "autoencoder.json"
    if not made.is_file():
        return []
    words = [f"data.shards={shards_of(settings)}"]
    return words if settings.cpu else [*words, f"model.autoencoder={read_json(made)['run']}"]
