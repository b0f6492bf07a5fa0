"""birdsd without DeepSpeed, and on systems that lack what only Linux has."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from birdsd.checks.context import DoctorContext
from birdsd.checks.software import check_deepspeed
from birdsd.config import compose
from birdsd.errors import Unsupported
from birdsd.site import machine
from birdsd.training.engines import choice
from tests.support.tiny import make_shards
from tests.support.untrained import make_model

# Finds no DeepSpeed, as on macOS, and lacks what other systems lack; imports everything, then trains twice.
_BARE = """
import os, signal, sys
for name in ("deepspeed", "fcntl"):
    sys.modules[name] = None
del os.sched_getaffinity, signal.SIGUSR2
import importlib, pkgutil
import birdsd
import birdsd.jobs
found = [module.name for module in pkgutil.walk_packages(birdsd.__path__[:1], "birdsd.")]
found += [module.name for module in pkgutil.iter_modules(birdsd.jobs.__path__, "birdsd.jobs.")]
for name in found:
    importlib.import_module(name)
print(len(found), "modules", file=sys.stderr)
from birdsd.cli.main import main
print(main(sys.argv[1:]), file=sys.stderr)
print(main([*sys.argv[1:], "seed=1", "machine.engine=deepspeed"]), file=sys.stderr)
"""


@pytest.mark.slow
def test_everything_imports_and_trains_without_deepspeed_and_linux(tmp_path: Path) -> None:
    shards, model = make_shards(tmp_path / "shards"), make_model(tmp_path / "base")
    settings = [
        "run", "train", "method=lora", "model=tiny", "model.init=pretrained", f"model.source={model}",
        f"data.shards={shards}", f"runs={tmp_path / 'runs'}", "optim.total_samples=8", "optim.global_batch=4",
        "machine.threads=1", "--json",
    ]  # fmt: skip
    done = subprocess.run([sys.executable, "-c", _BARE, *settings], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    trained, end = json.JSONDecoder().raw_decode(done.stdout)
    assert trained["finished"] and json.loads(done.stdout[end:])["error"]["code"] == "unsupported"
    modules, *told = [line for line in done.stderr.splitlines() if line[:1].isdigit()]
    assert int(modules.split()[0]) > 150
    assert told == ["0", "2"]
    assert 'pip install "birdsd[deepspeed]"' in done.stderr
    assert "Traceback" not in done.stderr


def test_its_absence_is_told_where_it_matters(monkeypatch) -> None:
    from birdsd.checks import software

    monkeypatch.setattr(choice, "find_spec", lambda name: None)
    monkeypatch.setattr(software, "find_spec", lambda name: None)
    asked = compose("train", ["machine.engine=deepspeed", "machine.zero_stage=2"])
    with pytest.raises(Unsupported, match="optional dependency"):
        choice.engine_name(asked.machine)
    assert choice.engine_name(compose("train", ["machine.zero_stage=0"]).machine)[0] == "torch"
    (note,) = check_deepspeed(DoctorContext(settings=compose("train", [])))
    assert note.level == "ok"
    assert "not needed" in note.what


def test_moments_in_eight_bits_need_an_extra(monkeypatch) -> None:
    from birdsd.checks import software

    monkeypatch.setattr(software, "find_spec", lambda name: None)
    packed = DoctorContext(settings=compose("train", ["machine.optimizer_bits=8"]))
    (note,) = software.check_eightbit(packed)
    assert note.level == "error" and "birdsd[eightbit]" in note.what_to_do
    assert not list(software.check_eightbit(DoctorContext(settings=compose("train", []))))


def test_the_gpus_of_wsl_are_counted(tmp_path: Path, monkeypatch) -> None:
    """WSL2 has /dev/dxg and no /dev/nvidia0; the driver's own program knows how many GPUs stand behind it."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA GeForce RTX 3050 Ti (UUID: x)'\n")
    program.chmod(0o755)
    monkeypatch.setattr(machine.Path, "glob", lambda self, pattern: iter(()))
    monkeypatch.setattr(machine.os.path, "exists", lambda path: path == "/dev/dxg")
    monkeypatch.setattr(machine.shutil, "which", lambda name: str(program))
    assert machine.gpu_devices.__wrapped__() == 1
    program.write_text("#!/bin/sh\nexit 9\n")
    assert machine.gpu_devices.__wrapped__() == 0
    monkeypatch.setattr(machine.os.path, "exists", lambda path: False)
    assert machine.gpu_devices.__wrapped__() == 0


def test_a_process_is_known_by_its_words() -> None:
    import os

    assert Path(sys.executable).name.split(".")[0][:6] in machine.command_line(str(os.getpid()))
    assert machine.command_line("no number") == ""
    assert machine.command_line(str(2**22 + 1)) == ""
