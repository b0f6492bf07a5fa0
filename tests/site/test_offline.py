"""slurm/offline.sh: what a machine without internet lacks, and its installation from a folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "slurm" / "offline.sh"


def offline(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(SCRIPT), *words],
        capture_output=True, text=True, env={**os.environ, "PYTHON": sys.executable, **environment},
    )  # fmt: skip


def needs(*words: str, **environment: str) -> dict[str, str]:
    """name -> version, "" without one."""
    done = offline("needs", *words, **environment)
    assert done.returncode == 0, done.stderr
    return {line.partition("==")[0]: line.partition("==")[2] for line in done.stdout.split()}


def test_everything_but_torch_and_cuda_in_the_versions_that_are_tested() -> None:
    found = needs()
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    pins = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pins.items()}
    assert {"diffusers", "transformers", "submitit", "soxr", "deepspeed", "huggingface-hub"} <= found.keys()
    assert "antlr4-python3-runtime" in found, "what needs only another one is there too"
    assert not [name for name in found if re.match(r"torch$|nvidia|triton|cuda", name)]
    assert "webdataset" in found and "pytest" not in found, "what only tests need stays at home"
    assert {name: version for name, version in found.items() if version != pins.get(name, "")} == {}


def test_what_the_machine_has_is_left_out_unless_it_is_too_old(tmp_path: Path) -> None:
    # The versions here fit what is installed beside them, however old that is; later ones may not.
    fitting = "".join(f"{name}=={metadata.version(name)}\n" for name in ("numpy", "huggingface_hub"))
    has = tmp_path / "has.txt"
    has.write_text(f"{fitting}accelerate==0.20.0\nsafetensors @ file:///x\n")
    found = needs(str(has))
    assert "numpy" not in found and "huggingface-hub" not in found
    assert "accelerate" in found and "safetensors" in found


def test_extras_are_asked_for() -> None:
    without = needs(EXTRAS="")
    assert "deepspeed" not in without and "hjson" not in without
    done = offline("needs", EXTRAS="nonsense")
    assert done.returncode and "nonsense" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [(), ("nonsense",), ("gather",), ("install", "not/there")])
def test_how_it_is_meant_is_said(words: tuple[str, ...]) -> None:
    done = offline(*words)
    assert done.returncode == 2 and "slurm/offline.sh gather wheels/" in done.stderr


def test_it_lists_and_installs_without_network(tmp_path: Path) -> None:
    has = offline("has")
    assert has.returncode == 0 and re.search(r"^torch==", has.stdout, re.MULTILINE)
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    name = "quailcall-1.0"
    with zipfile.ZipFile(wheels / "quailcall-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("quailcall.py", "SAID = 'wet my lips'\n")
        wheel.writestr(f"{name}.dist-info/METADATA", "Metadata-Version: 2.1\nName: quailcall\nVersion: 1.0\n")
        wheel.writestr(
            f"{name}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{name}.dist-info/RECORD", "")
    done = offline(
        "install", str(wheels), TARGET=str(tmp_path / "there"), PIP_INDEX_URL="http://127.0.0.1:9/"
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "there" / "quailcall.py").is_file()
