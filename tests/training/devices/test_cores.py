"""Sharing the cores: when threads sleep instead of spinning, that they do, and that no bit changes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

from birdsd.training.devices.cores import Load, Neighbours, multiplies_bf16, read_load, usable_cores

_GNU_ONLY = pytest.mark.skipif(
    sys.platform != "linux" or usable_cores() < 2, reason="needs GNU's OpenMP and two cores"
)


class _Bystander:
    """Notes what it is asked for."""

    def __init__(self):
        self.heard = []

    def stand(self, threads):
        self.heard.append(threads)

    def leave(self):
        self.heard.append("leave")


def look_at(loads, threads=2, cores=2):
    """(what the bystander heard, what the user read) after one look a second; `loads`: others' busy cores."""
    bystander, said, clock = _Bystander(), [], iter(range(len(loads) + 1))
    theirs = iter([0.0, *loads])
    told = {"all": 0.0, "ours": 0.0}

    def read():
        ours = 1.3
        told["all"] += next(theirs) + ours
        told["ours"] += ours
        return Load(float(next(clock)), told["all"], told["ours"])

    neighbours = Neighbours(threads, cores, bystander, said.append, read)
    for _ in loads:
        neighbours.look()
    return bystander.heard, said


def test_alone_on_the_machine_nothing_changes_and_nothing_is_said():
    assert look_at([0.0, 0.05, 0.1, 0.02]) == ([], [])


def test_a_busy_neighbour_is_noticed_at_the_next_look_and_said_once():
    heard, said = look_at([0.9, 1.0, 0.0, 0.0, 0.0, 0.8])
    assert heard == [2, "leave", 2]
    assert len(said) == 1 and "0.9 of 2 cores" in said[0] and "\n" not in said[0]


def test_a_pause_of_the_neighbour_is_not_its_end():
    assert look_at([0.9, 0.0, 0.0, 0.9, 0.0, 0.2, 0.0])[0] == [2]


@pytest.mark.parametrize(
    ("threads", "cores", "others", "expected"),
    [
        (1, 2, 2.0, []),  # one thread waits for nobody
        (4, 2, 2.0, []),  # more threads than cores: libgomp does it by itself
        (2, 8, 5.0, []),  # there is room for all
        (2, 8, 7.5, [8]),  # 1 + 1 of ours + 7 of the bystander's are more than 8
        (16, 16, 1.0, []),  # a sixteenth is no reason to wake fifteen threads at every wait
        (16, 16, 4.0, [2]),
    ],
)
def test_what_counts_is_what_is_wanted_beyond_the_cores_there_are(threads, cores, others, expected):
    assert look_at([others], threads, cores)[0] == expected


def test_the_load_is_that_of_all_programs_and_ours_is_a_part_of_it():
    before = read_load()
    spin_until = before.ours_s + 0.3
    while (now := read_load()).ours_s < spin_until:
        pass
    assert now.all_s - before.all_s >= now.ours_s - before.ours_s - 0.05
    assert now.others_since(before) <= usable_cores() + 0.2


# Between its operations the program rests for 2 ms: threads that spin meanwhile take processor time, threads
# that sleep do not. Processor time does not depend on what else the machine does.
_PROGRAM = """
import hashlib, json, sys, time, torch
from birdsd.training.devices import cores
torch.set_num_threads(2)
torch.manual_seed(0)
a, b = torch.randn(2, 1 << 18).unbind()
w, x = torch.randn(16, 16, 3, 3, requires_grad=True), torch.randn(4, 16, 64, 64)

def cost_s():
    begin = time.process_time()
    for _ in range(150):
        torch.add(a, b)
        time.sleep(0.002)
    return time.process_time() - begin

def bits():
    w.grad = None
    y = torch.nn.functional.conv2d(x, w)
    (y.square().mean() + (a @ b) + torch.mm(a.view(512, 512), b.view(512, 512)).std()).backward()
    return hashlib.sha256(w.grad.numpy().tobytes() + y.detach().numpy().tobytes()).hexdigest()

bystander = cores.Bystander.for_torch()
told = [(cost_s(), bits())]
if bystander is not None:
    for _ in range(2):
        bystander.stand(cores.usable_cores())
        told.append((cost_s(), bits()))
        bystander.leave()
        told.append((cost_s(), bits()))
print(json.dumps(told))
"""


def in_a_process(program, **variables):
    environment = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "GOMP_SPINCOUNT")}
    done = subprocess.run(
        [sys.executable, "-c", program], env={**environment, **variables}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


@_GNU_ONLY
def test_with_a_bystander_threads_sleep_and_without_it_they_spin_again_with_the_same_bits():
    told, _ = in_a_process(_PROGRAM)
    if len(told) == 1:
        pytest.skip("torch computes with another OpenMP here")
    spinning, sleeping = [told[i][0] for i in (0, 2, 4)], [told[i][0] for i in (1, 3)]
    assert max(sleeping) < 0.5 * min(spinning), told
    assert len({bits for _, bits in told}) == 1


_SHARING = """
import json, torch
from birdsd.training.devices import cores
theirs = cores.usable_cores()
crowd = iter([cores.Load(s, s * (theirs + 1), s) for s in range(3)])
neighbours = cores.Neighbours.__init__
cores.Neighbours.__init__ = lambda self, *a: neighbours(self, *a, lambda: next(crowd))
cores.LOOK_EVERY_S = 0.01
cores.share_cores(2)
import time; time.sleep(0.5)
mine = cores._neighbours
print(json.dumps([mine is not None, mine is not None and mine.crowded]))
"""


@_GNU_ONLY
@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT"])
def test_who_says_how_threads_wait_decides(name):
    (begun, crowded), said = in_a_process(_SHARING, **{name: "active" if "POLICY" in name else "1000"})
    assert not begun and not crowded and "birdsd:" not in said


@_GNU_ONLY
def test_by_itself_a_cpu_run_minds_its_neighbours_and_says_so():
    (begun, crowded), said = in_a_process(_SHARING)
    assert begun and crowded
    assert said.count("birdsd: ") == 1 and len(re.findall(r"[\d.]+ of \d+ cores", said)) == 1
    assert "birdsd:" not in in_a_process(_SHARING, RANK="1")[1], "one rank speaks for all"


def test_instructions_for_bf16_are_read_from_the_processors_flags(tmp_path) -> None:
    told = tmp_path / "cpuinfo"
    told.write_text("processor : 0\nflags\t\t: fpu sse avx512f avx512_bf16 amx_tile\n")
    assert multiplies_bf16(told)
    told.write_text("processor : 0\nflags\t\t: fpu sse avx512f avx512_bf16x\n")
    assert not multiplies_bf16(told) and not multiplies_bf16(tmp_path / "none")
