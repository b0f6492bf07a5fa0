"""Sharing this machine's cores with other programs.

The threads of an operation wait for each other thousands of times a step. GNU's OpenMP, which torch's wheels
for Linux bring, lets them spin for milliseconds before they sleep. Alone on the machine that is twice as fast
as sleeping at once. Beside a busy program it is a disaster: whenever that program has one of the cores, the
thread that belongs there cannot run, and all the others burn their time slices waiting for it.

So a CPU run looks at the load once a second. While other programs are busy its threads sleep where they would
spin. Their number stays what it was, and with it the order of every sum: results do not change by a bit.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

# Who sets one of these has decided how threads wait.
USERS_CHOICE = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
LOOK_EVERY_S = 1.0
# Cores that are wanted beyond those there are, per thread of ours: from `_BUSY` on spinning costs more than
# sleeping (measured on two cores, see docs/performance.md), and below `_QUIET` the neighbour is gone.
_BUSY, _QUIET = 0.15, 0.05
_QUIET_LOOKS = 3


def multiplies_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this processor has instructions for bf16: with them a UNet's step takes about two thirds of the
    time of fp32."""
    flags = ""
    with suppress(OSError):
        flags = next((line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")), "")
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags.split())


@dataclass(frozen=True)
class Load:
    """Seconds on a clock, and processor seconds until then: of all programs on the cores that this process
    may use, and of this process."""

    time_s: float
    all_s: float
    ours_s: float

    def others_since(self, before: Load) -> float:
        """Cores that other programs kept busy since then, on average."""
        theirs = (self.all_s - before.all_s) - (self.ours_s - before.ours_s)
        return max(0.0, theirs / max(1e-9, self.time_s - before.time_s))


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_load() -> Load:
    """The load now; `OSError` where the system does not tell. What a hypervisor takes counts as others'."""
    if not hasattr(os, "sched_getaffinity"):
        raise OSError("this system does not tell on which cores a process may run")
    mine = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    ticks = 0
    with open("/proc/stat", encoding="ascii") as stream:
        for line in stream:
            name, *fields = line.split()
            if name in mine:
                user, nice, system, _, _, hard, soft, steal = map(int, fields[:8])
                ticks += user + nice + system + hard + soft + steal
    return Load(time.monotonic(), ticks / os.sysconf("SC_CLK_TCK"), time.process_time())


class Bystander:
    """Makes libgomp's threads sleep instead of spinning, from `stand` until `leave`.

    libgomp decides at every wait: with more threads of its own than cores it sleeps almost at once. The
    bystander is one more team, big enough for that, which never gets any work.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._leave = threading.Event()
        self._thread: threading.Thread | None = None

    @classmethod
    def for_torch(cls) -> Bystander | None:
        """For the OpenMP that torch computes with; None where that is not GNU's."""
        import torch

        if sys.platform != "linux":
            return None
        with suppress(OSError):
            library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
            # LLVM's and Intel's have GNU's entry points besides their own.
            if hasattr(library, "GOMP_parallel") and not hasattr(library, "kmp_set_blocktime"):
                return cls(library)
        return None

    def stand(self, threads: int) -> None:
        """A team of so many threads comes."""
        self._leave.clear()
        there = threading.Event()
        self._thread = threading.Thread(
            target=self._wait, args=(threads, there), name="birdsd-bystander", daemon=True
        )
        self._thread.start()
        there.wait()

    def leave(self) -> None:
        """And goes; libgomp ends a team's threads together with the thread that called them."""
        self._leave.set()
        if self._thread is not None:
            self._thread.join()

    def _wait(self, threads: int, there: threading.Event) -> None:
        nothing = ctypes.cast(ctypes.CDLL(None).free, ctypes.c_void_p)  # free(NULL) does nothing
        self._library.GOMP_parallel(nothing, None, ctypes.c_uint(threads), ctypes.c_uint(0))
        there.set()
        self._leave.wait()


class Neighbours:
    """Looks at the load and has `bystander` come and go; `tell` gets one line, the first time it comes."""

    def __init__(
        self,
        threads: int,
        cores: int,
        bystander: Bystander,
        tell: Callable[[str], None],
        read: Callable[[], Load] = read_load,
    ) -> None:
        self.threads, self.cores = threads, cores
        self.crowded = False
        self._bystander, self._tell, self._read = bystander, tell, read
        self._last = read()
        self._quiet_looks = 0
        self._told = False

    def look(self) -> None:
        """What other programs did since the last look decides."""
        now = self._read()
        others, self._last = now.others_since(self._last), now
        wanted = (self.threads + others - self.cores) / self.threads
        alone = self.threads < 2 or self.threads > self.cores  # no one to wait for; or libgomp sees it itself
        self._quiet_looks = self._quiet_looks + 1 if wanted < _QUIET else 0
        if not self.crowded and not alone and wanted > _BUSY:
            self._bystander.stand(self.cores - self.threads + 2)
            self.crowded = True
            self._say(others)
        elif self.crowded and (alone or self._quiet_looks >= _QUIET_LOOKS):
            self._bystander.leave()
            self.crowded = False

    def _say(self, others: float) -> None:
        if self._told:
            return
        self._told = True
        self._tell(
            f"birdsd: other programs keep {others:.1f} of {self.cores} cores busy: until they end, threads "
            "sleep instead of spinning, with the same results"
        )

    def watch(self) -> None:
        """Look for ever; where the system no longer tells, or has no thread left, all stays as it is."""
        with suppress(OSError, ValueError, RuntimeError):
            while True:
                time.sleep(LOOK_EVERY_S)
                self.look()


_neighbours: Neighbours | None = None
_begun = False


def share_cores(threads: int) -> None:
    """From now on this process, which computes with so many threads, minds its neighbours on the CPU.

    Called again, it takes the new number. Nothing happens where the user decided how threads wait
    (`USERS_CHOICE`), with another OpenMP than GNU's, and where the system does not tell its load.
    """
    global _neighbours, _begun
    if _neighbours is not None:
        _neighbours.threads = threads
        return
    if _begun or any(os.environ.get(name) for name in USERS_CHOICE):
        return
    _begun = True
    bystander = Bystander.for_torch()
    if bystander is None:
        return
    with suppress(OSError, ValueError):
        _neighbours = Neighbours(threads, usable_cores(), bystander, _on_terminal)
        threading.Thread(target=_neighbours.watch, name="birdsd-neighbours", daemon=True).start()


def _on_terminal(line: str) -> None:
    """Beside a progress bar if there is one; one rank speaks for all."""
    from tqdm import tqdm

    if os.environ.get("RANK", "0") == "0":
        tqdm.write(line, file=sys.stderr)
