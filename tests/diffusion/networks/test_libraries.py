"""What a start imports: nothing that the training has no use for."""

import importlib
import importlib.util
import sys
from pathlib import Path

import pytest

from birdsd.diffusion.networks.libraries import _standing_in
from tests.support.imports import imported_by

UNUSED = ("deepspeed", "peft", "bitsandbytes")
TRAIN = """
import os, sys
from pathlib import Path
from birdsd.cli.main import main
from tests.support.tiny import make_shards
here = Path(sys.argv[1])

def end():
    print([m for m in MODULES if m in sys.modules], flush=True)
    os._exit(0)

make_shards(here / "shards")
common = ["birdsd", "run", "train", f"data.shards={here / 'shards'}", f"runs={here / 'runs'}", "model=tiny",
          "machine=smoke", "optim.global_batch=2", "optim.total_samples=2", "save.validate_every_samples=0",
          "machine.threads=1"]
for more in (["method=autoencoder"], ["method=full", "model.init=scratch", "model.autoencoder={}"]):
    autoencoder = next(here.glob("runs/*-autoencoder-*"), None)
    sys.argv = [*common, *(word.format(autoencoder) for word in more)]
    if "method=full" in more:  # what is imported to export a pipeline does not delay a start
        from birdsd.training.loop import Trainer
        Trainer._save = lambda self, parts: end()
    try:
        status = main()
    except SystemExit as left:
        status = left.code
    assert not status, status
"""


def test_a_plain_training_imports_no_library_that_it_does_not_use(tmp_path: Path) -> None:
    """From the command to the first save: a UNet after its autoencoder, with both in one process."""
    modules = (*UNUSED, "diffusers", "torch")
    found = imported_by(f"MODULES = {modules!r}\n{TRAIN}", str(tmp_path), heavy=modules)
    assert found == ["diffusers", "torch"]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An installed library with a submodule, which says when it is imported."""
    name = "laterlib"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("class Thing: ...\ndef twice(n): return 2 * n\n")
    (tmp_path / name / "part.py").write_text("from laterlib import Thing, twice\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for module in (name, f"{name}.part"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    return name


def test_a_stand_in_becomes_the_real_library_when_something_of_it_is_used(package: str) -> None:
    with _standing_in((package, f"{package}.part", "no_such_library")):
        assert importlib.util.find_spec(package) is not None, "it counts as installed"
        kept = importlib.import_module(package)
        scope: dict = {}
        exec(f"from {package}.part import Thing, twice", scope)
        with pytest.raises(ImportError):
            importlib.import_module("no_such_library")
    assert package not in sys.modules and f"{package}.part" not in sys.modules
    assert not isinstance(3, scope["Thing"]) and package not in sys.modules, "asking imports nothing"
    assert scope["twice"](4) == 8
    real = importlib.import_module(package)
    assert real is not kept and kept.Thing is real.Thing and kept.twice(1) == 2
    assert isinstance(real.Thing(), scope["Thing"]) and not isinstance(3, scope["Thing"])


def test_a_library_that_is_there_already_stays(package: str) -> None:
    real = importlib.import_module(package)
    with _standing_in((package, f"{package}.part")):
        assert importlib.import_module(package) is real
        assert importlib.import_module(f"{package}.part").Thing is real.Thing
    assert sys.modules[package] is real
