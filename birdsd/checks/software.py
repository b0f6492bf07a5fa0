"""The doctor's checks of software: Python, the code snapshot, PyTorch, GPUs, DeepSpeed. Imports no torch."""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import birdsd
from birdsd.checks.context import DoctorContext, Findings, error, ok, warning
from birdsd.schema import PrepareConfig
from birdsd.site import notebooks

# The oldest driver that runs a CUDA of this major version.
_DRIVERS = {11: 450, 12: 525, 13: 580}
_ASK_TORCH = """
import json, torch
facts = {"version": torch.__version__, "cuda": torch.version.cuda, "available": torch.cuda.is_available()}
if facts["available"]:
    facts["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    facts["bf16"] = torch.cuda.is_bf16_supported()
    facts["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))
print(json.dumps(facts))
"""


def check_python(context: DoctorContext) -> Findings:
    """Versions of Python and birdsd; the site's own interpreter, if it names one, has birdsd too."""
    what = f"{platform.python_version()}, birdsd {birdsd.__version__}"
    if sys.version_info < (3, 10):  # noqa: UP036 - a site's python may be older than ours
        yield error("python", what, "birdsd needs Python 3.10 or newer")
    else:
        yield ok("python", what)
    if context.site is None or not context.site.python:
        return
    named = context.site.python
    status, text = ask([named, "-c", "import birdsd, sys; print(birdsd.__version__)"], 60)
    if status:
        yield error("python", f"site.python={named}: {text}", "site.python=null uses the one that submits")
    elif text != birdsd.__version__:
        yield warning("python", f"site.python={named} has birdsd {text}", "install the same version there")
    else:
        yield ok("python", f"site.python={named} has the same birdsd")


def check_snapshot(context: DoctorContext) -> Findings:
    """The code can be copied when a job is submitted."""
    from birdsd.cluster.snapshot import code_root

    root = code_root()
    if not (root / ".git").exists():
        yield ok("code", f"installed in {root}: its version goes with every job")
        return
    if shutil.which("git") is None:
        yield warning(
            "code", f"{root} is a checkout, but git is not installed", "install git, to know what ran"
        )
        return
    status, commit = ask(["git", "-C", str(root), "rev-parse", "--short", "HEAD"], 30)
    problem, changes = ask(["git", "-C", str(root), "status", "--porcelain"], 60)
    if status or problem:
        yield warning(
            "code", f"git cannot read {root}: {commit if status else changes}", "repair the checkout"
        )
        return
    count = len(changes.splitlines())
    dirty = (
        f", with {count} uncommitted change{'s' * (count != 1)}, which are included"
        if count
        else ", unchanged"
    )
    yield ok("code", f"a checkout at {commit}{dirty}; a copy of it goes with every job")


def check_torch(context: DoctorContext) -> Findings:
    """PyTorch and its CUDA match the GPUs of the site or this machine. --deep asks PyTorch itself."""
    try:
        version = metadata.version("torch")
    except metadata.PackageNotFoundError:
        yield error("torch", "PyTorch is not installed", "pip install torch")
        return
    cuda, nccl = _of_wheels("nvidia-cuda-runtime"), _of_wheels("nvidia-nccl")
    wants_gpu = _wants_gpu(context)
    what = version + (f", CUDA {cuda}" if cuda else "") + (f", NCCL {nccl}" if nccl else "")
    if "+cpu" in version and wants_gpu:
        # With device=auto a run continues without GPUs; an explicit request must be met.
        say = error if "machine.device" in wants_gpu else warning
        yield say("torch", f"{what} has no CUDA, and {wants_gpu}", "install a PyTorch with CUDA")
    else:
        yield ok("torch", what)
    yield from _check_driver(cuda, wants_gpu)
    if context.deep:
        yield from _check_deep(wants_gpu)


def _wants_gpu(context: DoctorContext) -> str:
    """Why a GPU is needed; "" if it is not."""
    device = getattr(getattr(context.settings, "machine", None), "device", "")
    if isinstance(context.settings, PrepareConfig):
        return ""  # whatever the machine
    if device == "cuda":
        return "machine.device=cuda"
    if context.site is not None and context.site.gpus_per_node and device != "cpu":
        return f"site {context.site.name} has GPUs"
    return ""


def _of_wheels(name: str) -> str:
    """The version of NVIDIA's wheel NAME or NAME-cu12, as PyTorch's own wheels bring it; "" without."""
    for distribution in metadata.distributions():
        title = str(distribution.metadata["Name"] or "").lower()
        if title == name or re.fullmatch(re.escape(name) + r"-cu\d+", title):
            return distribution.version
    return ""


def _check_driver(cuda: str, wants_gpu: str) -> Findings:
    if shutil.which("nvidia-smi") is None:
        if wants_gpu:
            yield ok(
                "gpu", "no nvidia-smi on this machine: run this in a job to see the GPUs of a compute node"
            )
        return
    command = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    status, text = ask(command, 20)
    rows = [line.split(", ") for line in text.splitlines() if line.count(", ") == 2]
    if status or not rows:
        if wants_gpu:
            yield warning("gpu", f"nvidia-smi says: {text}", "run this in a job on a GPU node")
        return
    name, driver, memory = rows[0]
    what = f"{len(rows)} x {name}, {memory}, driver {driver}"
    major, least = driver.split(".")[0], _DRIVERS.get(int(cuda.split(".")[0]) if cuda else 0, 0)
    if major.isdigit() and int(major) < least:
        yield error(
            "gpu", f"{what}; CUDA {cuda} needs driver {least} or newer", "a PyTorch build for an older CUDA"
        )
    else:
        yield ok("gpu", what)


def _check_deep(wants_gpu: str) -> Findings:
    status, text = ask([sys.executable, "-c", _ASK_TORCH], 180)
    if status:
        yield error("torch", f"it cannot be imported: {text}", "install it again")
        return
    facts = json.loads(text.splitlines()[-1])
    if facts["available"]:
        bf16 = "bf16" if facts["bf16"] else "no bf16"
        yield ok("torch", f"sees {len(facts['gpus'])} x {facts['gpus'][0]}, {bf16}, NCCL {facts['nccl']}")
    elif wants_gpu and shutil.which("nvidia-smi"):
        yield warning("torch", f"it sees no GPU here, and {wants_gpu}", "run this in a job on a GPU node")
    else:
        yield ok("torch", "it can be imported; there is no GPU here")


def check_notebook(context: DoctorContext) -> Findings:
    """On a notebook service: the runs outlive the session, and a training stops before its end."""
    service = notebooks.here()
    if service is None:
        return
    place = service.work_folder
    if service.keeps_path(context.root):
        yield ok("notebook", f"{service.name}: {context.root} outlives the session ({service.how})")
    else:
        yield warning(
            "notebook", f"{service.name}: {context.root} is deleted when the session ends",
            f"runs={place / 'runs'}" if place else service.how,
        )  # fmt: skip
    training = context.training
    if training is not None and not training.machine.session_hours:
        yield warning(
            "notebook", f"a session of {service.name} usually ends after {service.session_hours:g} h",
            f"machine.session_hours={service.session_hours:g} saves and stops in time",
        )  # fmt: skip


def check_deepspeed(context: DoctorContext) -> Findings:
    """DeepSpeed is installed where the engine is DeepSpeed; elsewhere it is optional, and only noted."""
    machine = getattr(context.settings, "machine", None)
    if machine is None or machine.engine != "deepspeed":
        if machine is not None and find_spec("deepspeed") is None:
            yield ok("deepspeed", "not installed, and not needed with machine.engine=torch")
        return
    try:
        version = metadata.version("deepspeed")
    except metadata.PackageNotFoundError:
        yield error(
            "deepspeed", "machine.engine=deepspeed, but it is not installed",
            'pip install "birdsd[deepspeed]", or machine.engine=torch',
        )  # fmt: skip
        return
    if context.deep:
        status, text = ask([sys.executable, "-c", "import deepspeed; print(deepspeed.__version__)"], 300)
        if status:
            yield error("deepspeed", f"{version} cannot be imported: {text}", "install it again")
            return
    yield ok(
        "deepspeed", f"{version}, ZeRO stage {machine.zero_stage}" + ("; it imports" if context.deep else "")
    )
    lacking = [name for name, path in (("ninja", _ninja()), ("a C++ compiler", _compiler())) if not path]
    if lacking:
        # birdsd's configuration needs nothing that DeepSpeed compiles; a changed one might.
        yield ok(
            "compilers", f"no {' and no '.join(lacking)}: not needed, as birdsd has DeepSpeed compile nothing"
        )
    else:
        yield ok(
            "compilers", "ninja and a C++ compiler are available, should DeepSpeed need to compile something"
        )


def check_eightbit(context: DoctorContext) -> Findings:
    """bitsandbytes is installed where 8-bit moments are requested."""
    machine = getattr(context.settings, "machine", None)
    if machine is not None and machine.optimizer_bits == 8 and find_spec("bitsandbytes") is None:
        yield error(
            "bitsandbytes", "machine.optimizer_bits=8, but it is not installed",
            'pip install "birdsd[eightbit]", or machine.optimizer_bits=32',
        )  # fmt: skip


def check_judge(context: DoctorContext) -> Findings:
    """Whether BirdNET, which judges the clips of demo and studies, is installed."""
    from birdsd.evaluation.judges import birdnet

    if birdnet.installed():
        yield ok("judge", f"{birdnet.TITLE} is installed (the model is {birdnet.LICENCE})")
    else:
        yield ok(
            "judge",
            f"{birdnet.TITLE} is not installed ({birdnet.INSTALL}): clips are judged by the weak check alone",
        )


def _ninja() -> bool:
    return shutil.which("ninja") is not None or (Path(sys.executable).parent / "ninja").exists()


def _compiler() -> bool:
    return any(shutil.which(name) for name in ("c++", "g++", "clang++"))


def ask(arguments: list[str], timeout_s: float) -> tuple[int, str]:
    """(exit status, output of a program; the last line of its error output where it failed)."""
    try:
        done = subprocess.run(
            arguments, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        return 124, f"no answer in {timeout_s:g} s"
    except OSError as problem:
        return 127, problem.strerror or str(problem)
    if done.returncode == 0:
        return 0, done.stdout.decode("utf-8", "replace").strip()
    lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return done.returncode, lines[-1] if lines else f"status {done.returncode}, without output"
