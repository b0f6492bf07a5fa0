"""`make bench-gpu`: memory of each method on a GPU, estimated and measured, its throughput, and the 4 GB cap.

python -m bench.gpu                                 Stable Diffusion 1.5 at 512 x 512 on the first GPU
python -m bench.gpu --cap-gib 3.5                   as on a card of 4 GB: no more may be allocated
python -m bench.gpu --model tiny --codec birdsong-small --cpu    the same code here, to try it out

Weights are random: time and memory do not depend on them. Each method runs in a process of its own. Without a
GPU it says so and ends well.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from bench.methods import WAYS, Bench
from birdsd.errors import UserError
from birdsd.planning.hardware import card_called
from birdsd.planning.live_tensors import LiveTensors
from birdsd.planning.memory_budget import Layout, budget, tensor_bytes
from birdsd.planning.trace import trace_step
from birdsd.training.devices.precision import choose_precision

OFFLOADED = "full, offloaded"
METHODS = {
    **{way: settings for way, settings in WAYS.items() if "dreambooth on full" not in way},
    OFFLOADED: ["method=full", "machine.offload_optimizer=true", "machine.optimizer_bits=8"],
}


def main() -> int:
    """The table, a line a method; 1 where one of them failed."""
    parser = argparse.ArgumentParser(
        "bench.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="sd15")
    parser.add_argument("--codec", default="riffusion", help="512 x 512")
    parser.add_argument("--micro-batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--cap-gib", type=float, default=0.0, help="allow no more than this")
    parser.add_argument("--cpu", action="store_true", help="on the CPU, to try this program out")
    parser.add_argument("--methods", nargs="*", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--one", nargs=2, metavar=("METHOD", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.cpu and not torch.cuda.is_available():
        print("bench-gpu: there is no GPU here that PyTorch sees; nothing was measured")
        return 0
    if options.one:
        print(json.dumps(measure(*options.one, options)), flush=True)
        return 0
    rows = []
    device = "cpu" if options.cpu else torch.cuda.get_device_name()
    print(f"{device}, torch {torch.__version__}, {options.model}, micro-batch {options.micro_batch}")
    print(f"{'method':22} {'estimated':>10} {'measured':>10} {'ratio':>6} {'samples/s':>10} {'MFU':>6}")
    with tempfile.TemporaryDirectory() as folder:
        for method in options.methods:
            rows.append(_row(method, folder, sys.argv[1:]))
            print(_line(rows[-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps({"device": device, "rows": rows}, indent=2) + "\n")
    return 0 if all("error" not in row for row in rows) else 1


def _row(method: str, folder: str, words: list[str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.gpu", *words, "--one", method, folder]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
        return {"method": method, "error": last}
    return {"method": method, **json.loads(done.stdout.splitlines()[-1])}


def _line(row: dict[str, Any]) -> str:
    if "error" in row:
        return f"{row['method']:22} {row['error']}"
    mfu = "-" if row["mfu"] is None else f"{row['mfu']:.0%}"
    return (
        f"{row['method']:22} {row['foretold_mib']:6.0f} MiB {row['measured_mib']:6.0f} MiB "
        f"{row['foretold_mib'] / row['measured_mib']:6.2f} {row['samples_per_s']:10.2f} {mfu:>6}"
    )


def measure(method: str, folder: str, options: argparse.Namespace) -> dict[str, Any]:
    """One method, here and now: bytes estimated and measured (on the device alone), samples a second."""
    device = "cpu" if options.cpu else "cuda"
    machine = (
        "machine=laptop-4gb", f"machine.device={device}", f"machine.micro_batch={options.micro_batch}",
        f"optim.global_batch={options.micro_batch}",
    )  # fmt: skip
    bench = Bench(Path(tempfile.mkdtemp(dir=folder)), 1, options.model, options.codec, machine)
    settings = METHODS[method]
    if "method=autoencoder" not in settings:
        settings = [*settings, "model.init=pretrained", f"model.source={bench.base}"]
    settings = [word for word in settings if not word.startswith("optim.global_batch")]
    if not options.cpu and options.cap_gib:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(options.cap_gib * 2**30 / total)
    precision = choose_precision("auto", torch.device(device)).name
    config = bench.config(settings)
    count = options.micro_batch
    layout = Layout.of(config.machine, precision, count, 1, 1)
    step = trace_step(config, bench.index.codec, count, precision, low_precision_weights=layout.low_precision)
    made = budget(lambda *_: step, layout, average=bool(config.optim.ema_decay))
    estimated = tensor_bytes(made) if options.cpu else made.gpu_bytes
    live = LiveTensors() if options.cpu else None
    if live:
        live.hold_all()
    before = live.bytes if live else 0
    if live:
        live.__enter__()
    steps = bench.steps(settings)
    next(steps)
    if live:
        live.hold_all()
        live.restart_peak()
    else:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    begin = time.perf_counter()
    for _ in range(options.steps):
        next(steps)
    if not live:
        torch.cuda.synchronize()
    per_s = options.steps * options.micro_batch / (time.perf_counter() - begin)
    measured = live.peak_bytes - before if live else torch.cuda.max_memory_allocated()
    peak = None if options.cpu else _peak_flops(torch.cuda.get_device_name())
    return {
        "foretold_mib": estimated / 2**20,
        "measured_mib": measured / 2**20,
        "samples_per_s": per_s,
        "mfu": None if peak is None else step.flops / options.micro_batch * per_s / peak,
    }


def _peak_flops(name: str) -> float | None:
    """The data sheet's dense 16-bit peak; None for a card that is not known by name."""
    try:
        return 1e12 * card_called(name).tflops
    except UserError:
        return None


if __name__ == "__main__":
    sys.exit(main())
