"""verify: its segments cover what was asked for, and what is not the same is found."""

from __future__ import annotations

import json
import math
import random
import shutil
from contextlib import closing
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from birdsd.checks.verify.check import check_all, rounding
from birdsd.checks.verify.compare import (
    Limits,
    compare_ledgers,
    compare_losses,
    compare_states,
    compare_weights,
)
from birdsd.checks.verify.plan import (
    FINISH,
    STOP,
    Segment,
    Shape,
    end_of,
    plan_segments,
    steps_for,
    usual_shape,
)
from birdsd.checks.verify.segments import Ranks, RunObserver, SegmentResult, rank_environment, train_reference
from birdsd.checks.verify.verify import VerifyResult, verify
from birdsd.cli.tables.verify import result_text
from birdsd.errors import AlreadyThere, BadValue, UserError
from tests.support.errors import refuses
from tests.support.remarks import remarked

REQUESTS = [
    ((1, 2, 4), (0, 1, 2, 3), 6),
    ((1, 2), (0, 2), 2),
    ((1,), (0,), 0),
    ((1,), (0,), 5),
    ((2, 4), (3,), 1),
    ((1, 8), (0, 1), 20),
]
BATCH = 4


# -- the plan ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("worlds", "stages", "kills"), REQUESTS)
def test_every_world_meets_every_stage_and_every_kill_has_its_segment(worlds, stages, kills):
    segments = plan_segments(worlds, stages, kills, 16, 32)
    pairs = {(segment.shape.world, segment.shape.stage) for segment in segments}
    assert pairs == {(world, stage) for world in worlds for stage in stages}
    assert sum(segment.is_killed for segment in segments) == kills and len(segments) >= kills + 1
    assert [segment.ending == FINISH for segment in segments] == [False] * (len(segments) - 1) + [True]
    repeats = [(one, two) for one, two in pairwise(segments) if two.again]
    assert len(repeats) == min(kills, len(stages)) == sum(segment.repeated for segment in segments)
    assert all(one.repeated and one.is_killed and one.shape == two.shape for one, two in repeats)
    assert all(one.readers != two.readers for one, two in repeats)
    assert len({segment.shape.micro_batch for segment in segments}) > 1 or len(segments) == 1
    assert len({one.shape.stage for one, _ in repeats}) == len(repeats)
    for segment in segments:
        assert 1 <= segment.shape.micro_batch <= usual_shape(16, 32, segment.shape.world).micro_batch
    if 1 in worlds and 0 in stages:
        assert segments[0].shape == usual_shape(16, 32)


@pytest.mark.parametrize(("worlds", "stages", "kills"), REQUESTS)
def test_segments_end_before_the_run_is_over(worlds, stages, kills):
    for seed in range(50):
        segments, draw = plan_segments(worlds, stages, kills, 16, 32), random.Random(seed)
        total, every, step, saved = steps_for(24, len(segments)), 2, 0, 0
        for number, segment in enumerate(segments):
            end = end_of(
                segment,
                step,
                total,
                len(segments) - number,
                every,
                draw,
                before=saved if segment.again else 0,
            )
            reached = end if segment.ending == FINISH else end + draw.randint(0, 1)
            assert step < end and (segment.ending == FINISH) == (reached >= total)
            if segment.repeated:
                saved = (step // every + 2) * every
                assert end > saved, "it has saved twice, and one of the two is made again"
                step = saved - every
            elif segment.ending == STOP:
                step = reached
            elif segment.is_killed:
                step = max(step, reached // every * every)


# -- the comparisons ---------------------------------------------------------------------------------------


def test_ledgers():
    reference = np.arange(20, dtype=np.int32)[::-1].copy()
    assert (
        compare_ledgers(reference, reference, BATCH)
        == compare_ledgers(reference, reference[5:], BATCH, 5)
        == ""
    )
    swapped = reference.copy()
    swapped[[8, 9]] = swapped[[9, 8]]
    assert "global batch 2 differs: position 8" in compare_ledgers(reference, swapped, BATCH)
    doubled = np.concatenate([reference[:8], reference[4:16]])
    assert "(12 of 20 positions differ)" in compare_ledgers(reference, doubled, BATCH)
    undecoded = reference.copy()
    undecoded[3] = -1 - undecoded[3]
    assert "global batch 0" in compare_ledgers(reference, undecoded, BATCH)
    assert "position 21" in compare_ledgers(reference, np.append(reference, 0), BATCH)


def test_losses():
    reference = {4: 0.5, 8: 0.25, 12: 0.125}
    same = compare_losses(reference, reference, 0.0, whole=True)
    assert (same.steps, same.worst, same.problem) == (3, 0.0, "")
    last_bit = {**reference, 8: math.nextafter(0.25, 1)}
    assert not compare_losses(reference, last_bit, 1e-5).problem
    other_bit = compare_losses(reference, last_bit, 0.0).problem
    assert (other_bit.code, other_bit.facts) == ("losses-not-bitwise", {"position": 8})
    assert repr(last_bit[8]) in other_bit and "0.25" in other_bit
    near, far = ({**reference, 12: 0.125 * (1 + d)} for d in (9e-6, 2e-5))
    assert not compare_losses(reference, near, 1e-5).problem
    found = compare_losses(reference, far, 1e-5)
    assert found.at == 12 and found.worst == pytest.approx(2e-5) and "position 12" in found.problem
    assert (found.problem.code, found.problem.facts) == ("losses-apart", {"position": 12})
    assert compare_losses(reference, {**reference, 4: math.nan}, 1e-2).problem
    unknown = compare_losses(reference, {16: 0.1}, 1e-2).problem
    assert (unknown.code, unknown.facts) == ("position-unknown", {"position": 16}) and "16" in unknown
    part = {4: 0.5, 12: 0.125}
    assert not compare_losses(reference, part, 0.0).problem
    assert "position 8 is missing" in compare_losses(reference, part, 0.0, whole=True).problem


def tensors(seed: int = 0) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    kinds = ("weights", "exp_avg", "exp_avg_sq", "ema")
    return {f"{kind}/{name}": draw.standard_normal((5, 7), np.float32) for kind in kinds for name in "ab"}


def test_weights():
    reference = tensors()
    assert compare_weights(reference, tensors(), 0.0) == ({"weights": 0.0, "ema": 0.0}, "")
    # A bias without a gradient may go anywhere; what counts is its part in the whole.
    assert not compare_weights(
        {**reference, "weights/c": np.zeros(3)}, {**reference, "weights/c": 1e-5 * np.ones(3)}, 1e-4
    )[1]
    for key in ("weights/b", "ema/a"):
        found, problem = compare_weights(
            reference, {**reference, key: reference[key] * np.float32(1.001)}, 1e-4
        )
        assert f"the {key.split('/')[0]} differ by" in problem and max(found.values()) > 1e-4
    assert compare_weights(reference, {**reference, "weights/a": np.full((5, 7), np.nan)}, 1e-1)[1]
    absent = compare_weights(reference, {"weights/a": reference["weights/a"]}, 1)[1]
    named = min(reference.keys() - {"weights/a"})
    assert (absent.code, absent.facts) == ("tensor-missing", {"tensor": named}) and named in absent
    assert "shapes" in compare_weights(reference, {**reference, "ema/b": np.zeros((7, 5))}, 1)[1]
    assert "no weights" in compare_weights({}, {}, 1)[1]


def test_states():
    reference, other = tensors(), tensors()
    assert compare_states(reference, other) == ""
    other["exp_avg_sq/b"][2, 3] = np.nextafter(other["exp_avg_sq/b"][2, 3], np.float32(9))
    differs = remarked([compare_states(reference, other)], "tensor-differs")
    assert differs.facts == {"tensor": "exp_avg_sq/b"}
    absent = compare_states(reference, {k: reference[k] for k in list(reference)[1:]})
    named = next(iter(reference))
    assert (absent.code, absent.facts) == ("tensor-missing", {"tensor": named}) and named in absent


def test_limits():
    usual = Limits.of("fp32")
    assert (usual.loss, usual.weights) == (1e-5, 1e-4) and Limits.of("bf16").loss == 1e-2
    assert usual.raised(2e-7, 3e-7) == usual, "settings that are calm raise nothing"
    raised = usual.raised(3e-5, 1e-6)
    assert raised.loss == pytest.approx(3e-4) and raised.weights == usual.weights and "3.0e-05" in raised.why
    assert usual.raised(1.0, 1.0).loss == 1e-2, "not everything is rounding"


# -- the verdict: a run on disk, and every way to spoil it ---------------------------------------------------

USUAL = Shape(1, 0, BATCH)
ORDER = np.random.default_rng(1).permutation(24).astype(np.int32)
LOSSES = {position: 1 / position for position in range(BATCH, 25, BATCH)}


def write_run(runs: Path, weights: dict[str, np.ndarray] | None = None) -> RunObserver:
    folder = runs / "tiny-full-abc"
    (folder / "checkpoints" / f"{24:012d}").mkdir(parents=True)
    (folder / "signature.json").write_text('{"signature": "abc", "job": "train"}')
    ORDER.tofile(folder / "ledger.bin")
    write_losses(folder, LOSSES)
    save_file(weights or tensors(), folder / "checkpoints" / f"{24:012d}" / "tensors.safetensors")
    return RunObserver(runs, BATCH)


def write_losses(folder: Path, losses: dict[int, float]) -> None:
    lines = [json.dumps({"kind": "train", "position": p, "loss": loss}) for p, loss in losses.items()]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")


def part_of(number: int, segment: Segment, begin: int, reached: int, **changes) -> SegmentResult:
    losses = {p: loss for p, loss in LOSSES.items() if begin < p <= reached}
    return SegmentResult(
        number, segment, begin, reached, losses=losses, samples=ORDER[begin:reached].copy(),
        **{"ended": "as planned", "facts": {"position": begin}, **changes},
    )  # fmt: skip


def course() -> list[SegmentResult]:
    """Killed, repeated from a checkpoint before, and finished in another shape."""
    segments = [
        Segment(USUAL, 1, "step", repeated=True),
        Segment(USUAL, 2, STOP, again=True),
        Segment(Shape(2, 3, 2), 3, FINISH),
    ]
    return [
        part_of(1, segments[0], 0, 12),
        part_of(2, segments[1], 4, 16, redone=8, repeated_save=8),
        part_of(3, segments[2], 16, 24),
    ]


def wrong(reference: RunObserver, changed: RunObserver, results: list[SegmentResult]) -> list[str]:
    checks = check_all(reference, changed, [r.segment for r in results], results, USUAL, Limits())
    result = VerifyResult([], 6, BATCH, "cpu", "fp32", 1.0, results, checks, [], 2.0)
    failed = [check.name for check in checks if not check.passed]
    assert result.exit_status == int(bool(failed)) and json.loads(json.dumps(result.to_json()))["passed"] == (
        not failed
    )
    assert ("FAIL: " in result_text(result)) == bool(failed) and ("PASS: " in result_text(result)) == (
        not failed
    )
    assert result_text(result).count("WRONG") == len(failed)
    return failed


@pytest.fixture
def reference(tmp_path) -> RunObserver:
    return write_run(tmp_path / "reference")


@pytest.fixture
def changed(tmp_path) -> RunObserver:
    return write_run(tmp_path / "runs")


def test_the_same_is_sound(reference, changed):
    results = course()
    assert wrong(reference, changed, results) == []
    checks = {
        c.name: c.found
        for c in check_all(reference, changed, [r.segment for r in results], results, USUAL, Limits())
    }
    assert "6 global batches" in checks["samples"] and "8 samples" in checks["samples"]
    assert "the first 4 steps match" in checks["bits"]
    assert "2 repeated steps" in checks["bits"] and "1 repeated checkpoints (torch)" in checks["bits"]


def test_a_spoiled_ledger_is_found(reference, changed):
    path = changed.run.folder / "ledger.bin"
    for spoiled in (
        ORDER[::-1],
        ORDER[:20],
        np.concatenate([ORDER[:4], ORDER[:20]]),
        np.append(ORDER, ORDER[:4]),
    ):
        spoiled.tofile(path)
        assert wrong(reference, changed, course()) == ["samples"]
    ORDER.tofile(path)
    results = course()
    results[1].samples[3] += 1  # what a kill undid counts as well
    assert wrong(reference, changed, results) == ["samples"]


def test_a_spoiled_loss_is_found(reference, changed):
    for spoiled in ({**LOSSES, 20: LOSSES[20] * 1.0001}, {p: LOSSES[p] for p in list(LOSSES)[1:]}):
        write_losses(changed.run.folder, spoiled)
        assert wrong(reference, changed, course()) == ["losses"]
    write_losses(changed.run.folder, LOSSES)
    results = course()
    results[2].losses[20] *= 1.0001
    assert wrong(reference, changed, results) == ["losses"] and results[2].difference == pytest.approx(1e-4)


def test_a_last_bit_counts_where_nothing_changed(reference, changed):
    results = course()
    results[2].losses[20] = math.nextafter(results[2].losses[20], 1)
    assert wrong(reference, changed, results) == [], "another shape may round otherwise"
    for segment in (0, 1):
        results = course()
        results[segment].losses[8] = math.nextafter(results[segment].losses[8], 1)
        assert wrong(reference, changed, results) == ["bits"]
    results = course()
    results[1].state_problem = "the checkpoint of position 8: ema/a is not bitwise identical"
    assert wrong(reference, changed, results) == ["bits"]


def test_spoiled_weights_are_found(reference, changed, tmp_path):
    for name, weights in enumerate(
        (
            {**tensors(), "weights/a": tensors(1)["weights/a"]},
            {**tensors(), "ema/b": 1.01 * tensors()["ema/b"]},
        )
    ):
        other = write_run(tmp_path / f"other{name}", weights)
        assert wrong(reference, other, course()) == ["weights"]
        assert rounding(reference, other)[0] == 0.0 < rounding(reference, other)[1]
    shutil.rmtree(changed.run.folder / "checkpoints")
    (changed.run.folder / "checkpoints").mkdir()
    assert wrong(reference, changed, course()) == ["weights"]


def test_a_leg_that_failed_or_never_came_is_found(reference, changed):
    results = course()
    results[2].problem = "a rank ended by itself: status 1"
    assert wrong(reference, changed, results) == ["segments"]
    results = course()
    segments = [result.segment for result in results]
    checks = check_all(reference, changed, segments, results[:2], USUAL, Limits())
    (untried,) = [c.found for c in checks if not c.passed]
    assert remarked([untried], "shape-untried").facts == {"world": 2, "stage": 3}
    results[2].problem, results[2].too_late = "the run ended before this segment could be interrupted", True
    result = VerifyResult([], 6, BATCH, "cpu", "fp32", 1.0, results, check_all(
        reference, changed, segments, results, USUAL, Limits()), [], 2.0)  # fmt: skip
    assert result.exit_status == 1 and result.incomplete and "use more --steps" in result_text(result)


# -- the real thing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"worlds": ()}, "--worlds "), ({"worlds": (0, 1)}, "--worlds 0,1"), ({"stages": (4,)}, "--stages 4"),
        ({"kills": -1}, "--kills -1"), ({"steps": 0}, "--steps 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_tried_is_refused(asked, named):
    with refuses(named, kind=BadValue):
        verify(["machine=smoke"], **asked)


def test_the_rank_that_failed_is_quoted(tmp_path):
    with closing(Ranks(Shape(2, 0, 4), ["optim.nothing=1"], tmp_path / "segment")) as ranks:
        for process in ranks.processes:
            process.wait(timeout=60)
        assert ranks.codes == [2, 2]
        assert "status 2" in ranks.last_words() and "unknown key" in ranks.last_words()
    with refuses(("reference", "status 2", "unknown key"), kind=UserError):
        train_reference(RunObserver(tmp_path, 4), Shape(1, 0, 4), ["optim.nothing=1"], tmp_path / "reference")


def test_ranks_are_not_taken_for_an_allocation_of_slurm(monkeypatch):
    """A rank that is asked to stop must not requeue the job in which somebody typed `birdsd verify`."""
    for name in ("SLURM_JOB_ID", "SUBMITIT_EXECUTOR", "BIRDSD_ALLOCATION", "GROUP_RANK", "BIRDSD_CONFIGS"):
        monkeypatch.setenv(name, "theirs")
    environment = rank_environment(1, 4, 29500, "segment-03")
    assert not any(name.startswith(("SLURM_", "SUBMITIT_")) for name in environment)
    assert "GROUP_RANK" not in environment and environment["BIRDSD_CONFIGS"] == "theirs"
    assert (environment["RANK"], environment["WORLD_SIZE"]) == ("1", "4")
    assert environment["BIRDSD_ALLOCATION"] == "verify-segment-03"


def test_a_folder_in_use_is_not_touched(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with refuses(f"--out {tmp_path}", kind=AlreadyThere):
        verify(["machine=smoke"], out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.slow
def test_killed_changed_and_sound(tmp_path):
    """Two worlds, two stages, two kills, in real processes; then the same runs with a few bytes changed."""
    if find_spec("deepspeed") is None:
        pytest.skip("DeepSpeed is not installed")
    said: list[str] = []
    out = tmp_path / "out"
    result = verify(
        ["machine=smoke", "optim.global_batch=4"],
        (1, 2),
        (0, 2),
        kills=2,
        steps=8,
        out=out,
        keep=True,
        say=said.append,
    )
    assert result.passed and result.exit_status == 0, result_text(result)
    assert len(result.segments) == 6 and sum("SIGKILL" in segment.ended for segment in result.segments) == 2
    assert sum(segment.redone for segment in result.segments) > 0 and result.segments[-1].ended == "finished"
    assert {(segment.segment.shape.world, segment.segment.shape.stage) for segment in result.segments} == {
        (1, 0),
        (1, 2),
        (2, 0),
        (2, 2),
    }
    assert "repeated checkpoints (ZeRO-2, torch)" in result_text(result)
    assert json.loads((out / "verify.json").read_text())["passed"]
    assert sum(line.startswith("segment ") for line in said) == 6
    run = RunObserver(out / "runs", 4).run.folder
    ledger = np.fromfile(run / "ledger.bin", np.int32)
    ledger[9] ^= 1
    ledger.tofile(run / "ledger.bin")
    for path in RunObserver(out / "runs", 4).checkpoint().glob("*.safetensors"):
        held = load_file(path)
        save_file(
            {k: v * np.float32(1.001) if k.startswith("weights/") else v for k, v in held.items()}, path
        )
    segments = [segment.segment for segment in result.segments]
    observers = RunObserver(out / "reference", 4), RunObserver(out / "runs", 4)
    checks = check_all(*observers, segments, result.segments, usual_shape(4, 32), Limits())
    assert [check.name for check in checks if not check.passed] == ["samples", "weights"]
