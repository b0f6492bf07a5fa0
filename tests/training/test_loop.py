"""Samples that cannot be decoded, losses that are not finite, settings that cannot train."""

import json
import math

import numpy as np
import pytest
import torch

from birdsd.diffusion.networks.finite import NotFinite
from birdsd.errors import BadValue, Damaged, Mismatch, NothingLeft, UnknownName
from birdsd.schema import OptimConfig
from birdsd.shards.index import ShardIndex
from birdsd.training.batches.global_batch import BatchPlan
from birdsd.training.devices.precision import choose_device, choose_precision
from birdsd.training.engines.choice import engine_name
from birdsd.training.engines.ema import Ema
from birdsd.training.loop import train
from birdsd.training.records import UNKNOWN, Ledger, Metrics, read_metrics
from birdsd.training.schedule import ema_decay_at, learning_rate_at
from tests.support.errors import refuses
from tests.support.toy import OPTIM, ToyLearner, ToyMethod, losses, make_shards, toy_config


def go(shards, run, method=ToyMethod, events=None, **changes):
    index, config = ShardIndex.open(shards), toy_config(**changes)
    return train(
        config, method(config, index), index, run, events=(events if events is not None else []).append
    )


def test_a_batch_is_covered_once_by_any_world():
    for batch in (1, 2, 7, 10, 64):
        for world in (1, 2, 3, 5, 8):
            for micro in (0, 1, 3, 100):
                plans = [BatchPlan(batch, world, rank, micro) for rank in range(world)]
                counted = [m for plan in plans for m in plan.micro_batches()]
                weights = np.zeros(batch)
                for piece in counted:
                    np.add.at(weights, list(piece.offsets), piece.weights)
                assert (weights == 1).all()
                assert {len(plan.micro_batches()) for plan in plans} == {plans[0].count}
                assert all(0 < len(piece.offsets) <= plans[0].size for piece in counted)


@pytest.mark.parametrize("changes", [{"global_batch": 0}, {"micro_batch": -1}, {"rank": 2, "world_size": 2}])
def test_impossible_plans(changes):
    with pytest.raises(BadValue):
        BatchPlan(**{"global_batch": 4, **changes})


def test_schedules():
    optim = OptimConfig(
        **{**OPTIM, "warmup_samples": 100, "total_samples": 1100, "min_learning_rate_ratio": 0.1}
    )
    assert learning_rate_at(50, optim) == pytest.approx(0.005)
    assert learning_rate_at(100, optim) == pytest.approx(0.01)
    assert learning_rate_at(600, optim) == pytest.approx(0.0055)
    assert learning_rate_at(1100, optim) == learning_rate_at(5000, optim) == pytest.approx(0.001)
    optim.decay = "linear"
    assert learning_rate_at(350, optim) == pytest.approx(0.01 * (0.1 + 0.9 * 0.75))
    optim.decay, optim.warmup_samples = "constant", 0
    assert learning_rate_at(1, optim) == learning_rate_at(1100, optim) == 0.01
    assert ema_decay_at(10, optim) == pytest.approx(2 / 11) and ema_decay_at(10**6, optim) == 0.9


def test_ema_exchanges_exactly():
    sources = [torch.tensor([1.0, 2.0]), torch.tensor([[3.0]])]
    ema = Ema(sources)
    sources[0].mul_(3)
    ema.update(0.75)
    assert torch.equal(ema.averages[0], torch.tensor([1.5, 3.0])), "0.75 of the old and 0.25 of the new"
    with ema.exchanged():
        assert torch.equal(sources[0], torch.tensor([1.5, 3.0]))
    assert torch.equal(sources[0], torch.tensor([3.0, 6.0]))
    assert torch.equal(ema.averages[0], torch.tensor([1.5, 3.0]))


def test_one_step_is_adamw_on_the_mean(shards, tmp_path):
    """The whole machinery against ten lines of plain PyTorch, two steps."""
    changes = {"optim__total_samples": 20, "optim__warmup_samples": 0, "optim__decay": "constant"}
    go(shards, tmp_path, **changes, optim__weight_decay=0.1)
    index, config = ShardIndex.open(shards), toy_config(**changes)
    from birdsd.shards.order import SampleOrder
    from birdsd.shards.reader import ShardReader

    torch.manual_seed(0)
    learner, method, reader = ToyLearner(), ToyMethod(config, index), ShardReader(index, "train")
    matrices = [p for p in learner.parameters() if p.ndim > 1]
    vectors = [p for p in learner.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-2)
    order, expected = SampleOrder(index.shard_sizes("train"), 0), {}
    for step in range(2):
        numbers = enumerate(order.batch(10 * step, 10), start=10 * step)
        examples = [method.make_example(None, reader.read(int(n)), position) for position, n in numbers]
        loss = learner({k: torch.stack([e[k] for e in examples]) for k in examples[0]}).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learner.parameters(), 0.5)
        optimizer.step()
        expected[10 * step + 10] = loss.item()
    found = losses(tmp_path)
    assert found.keys() == expected.keys()
    np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-6)


def test_undecodable_samples_have_no_weight(tmp_path):
    """The mean is over what could be read, whatever the micro-batch; each is counted and named once."""
    shards = make_shards(tmp_path / "shards", samples=20, broken=(3, 4, 5, 11))
    events: list = []
    go(shards, tmp_path / "a", events=events)
    go(shards, tmp_path / "b", machine__micro_batch=1)  # there are micro-batches of nothing but a bad one
    a, b = losses(tmp_path / "a"), losses(tmp_path / "b")
    np.testing.assert_allclose(list(a.values()), list(b.values()), rtol=1e-6)
    assert all(math.isfinite(v) for v in a.values())
    named = sorted(e["key"] for e in events if e["event"] == "sample not decoded")
    assert named == ["train0003", "train0004", "train0005", "train0011"]
    assert Ledger(tmp_path / "a").bad_samples() == {3, 4, 5, 11}


def test_too_many_undecodable_samples(tmp_path):
    shards = make_shards(tmp_path / "shards", samples=20, broken=tuple(range(6)))
    with refuses("3", "save.max_bad_samples", kind=Damaged):
        go(shards, tmp_path / "run", save__max_bad_samples=3)


def test_nothing_decodable(tmp_path):
    shards = make_shards(tmp_path / "shards", samples=20, broken=tuple(range(20)))
    with refuses("train0000", kind=NothingLeft):
        go(shards, tmp_path / "run")


class Exploding(ToyMethod):
    def encode_batch(self, parts, batch):
        self.calls = getattr(self, "calls", 0) + 1
        return {k: v * float("inf") if self.calls > 12 else v for k, v in batch.items()}


def test_a_loss_that_is_not_finite(shards, tmp_path):
    """Named with its step and positions, and not saved: the run goes on from before it."""
    with refuses("step 5 (positions 40 to 49)", kind=NotFinite):
        go(shards, tmp_path, method=Exploding, save__every_samples=10, save__validate_every_samples=0)
    assert max(p.name for p in (tmp_path / "checkpoints").iterdir()) == "000000000040"
    assert max(losses(tmp_path)) == 40
    assert go(shards, tmp_path).resumed_from == 40


def test_a_loss_found_late_is_not_saved(shards, tmp_path):
    with refuses("step 5", kind=NotFinite):
        go(shards, tmp_path, method=Exploding, save__log_every_steps=1000, save__validate_every_samples=0)
    assert max(p.name for p in (tmp_path / "checkpoints").iterdir()) == "000000000040"


class Beyond(ToyMethod):
    """One sample of those held out is far beyond what float32 can square."""

    def make_example(self, parts, sample, position, purpose="train"):
        made = super().make_example(parts, sample, position, purpose)
        return {k: v * (1e30 if sample.key == "validation0003" else 1) for k, v in made.items()}


def test_a_validation_loss_that_is_not_finite_names_the_sample(shards, tmp_path):
    with refuses(("1 of 8", "'validation0003'"), kind=NotFinite) as caught:
        go(shards, tmp_path, method=Beyond)
    assert "machine.precision=fp32" in str(caught.value)
    assert not [line for line in read_metrics(tmp_path) if line["kind"] == "validation"]
    assert go(shards, tmp_path, method=Beyond, save__validate_every_samples=0).finished


class Diverging(ToyMethod):
    """What the third step makes of the weights cannot be computed with."""

    def encode_batch(self, parts, batch):
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls == 14:  # three micro-batches a step and two to validate: behind the third step
            with torch.no_grad():
                parts.learner.inner.weight.fill_(float("nan"))
        return batch


def test_diverged_weights_that_validation_meets_are_not_saved(shards, tmp_path):
    with refuses("8 of 8", kind=NotFinite):
        go(shards, tmp_path, method=Diverging, save__every_samples=10, save__validate_every_samples=10)
    metrics = list(read_metrics(tmp_path))
    assert all(math.isfinite(line["loss"]) for line in metrics)
    newest = max(int(p.name) for p in (tmp_path / "checkpoints").iterdir())
    assert newest < max(line["position"] for line in metrics)


def test_logging_rarely_changes_nothing(shards, tmp_path):
    go(shards, tmp_path / "a")
    go(shards, tmp_path / "b", save__log_every_steps=7, save__every_samples=70, machine__reader_threads=0)
    assert losses(tmp_path / "a") == losses(tmp_path / "b")


def test_metrics_and_ledger_rewind(tmp_path):
    metrics, ledger = Metrics(tmp_path), Ledger(tmp_path)
    metrics.append([{"kind": "train", "position": p, "loss": 0.1} for p in (10, 20, 30)])
    with open(tmp_path / "metrics.jsonl", "a") as stream:
        stream.write('{"kind": "train", "posi')
    ledger.append(np.arange(30))
    metrics.rewind(20)
    ledger.rewind(20)
    assert [line["position"] for line in read_metrics(tmp_path)] == [10, 20]
    assert ledger.read().tolist() == list(range(20))
    ledger.rewind(23)
    assert ledger.read()[20:].tolist() == [UNKNOWN] * 3
    ledger.append(np.array([7, -1 - 9]))
    assert len(ledger.read()) == 25 and ledger.bad_samples() == {9}


def test_previews_show_the_average(shards, tmp_path):
    go(shards, tmp_path, save__preview_every_samples=60, save__preview_prompts=["a Toy"])
    last = np.load(tmp_path / "previews/000000000120/weights.npy")
    assert np.array_equal(last, np.load(tmp_path / "export/weights.npy"))
    assert not np.array_equal(last, np.load(tmp_path / "previews/000000000060/weights.npy"))
    assert list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))


def test_previews_reach_tensorboard(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    from PIL import Image
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from birdsd.training.trackers import Trackers

    Image.new("L", (8, 4), 99).save(tmp_path / "robin.png")
    soundfile.write(tmp_path / "robin.wav", np.zeros((100, 2)), 16000)
    trackers = Trackers(tmp_path, 0)
    trackers.scalars({"train/loss": 0.5}, 40)
    trackers.previews([tmp_path / "robin.png", tmp_path / "robin.wav"], 40)
    trackers.close()
    seen = EventAccumulator(str(tmp_path / "tensorboard"))
    seen.Reload()
    tags = seen.Tags()
    assert (tags["scalars"], tags["images"], tags["audio"]) == (["train/loss"], ["robin"], ["robin"])
    assert seen.Scalars("train/loss")[0].step == 40


def test_what_it_says_at_the_start(shards, tmp_path, capsys):
    events: list = []
    go(shards, tmp_path, events=events)
    (facts,) = [e for e in events if e["event"] == "training"]
    assert (facts["precision"], facts["engine"], facts["micro_batches"]) == ("fp32", "torch", 3)
    assert facts["precision_reason"] and facts["engine_reason"]
    said = capsys.readouterr()
    assert "fp32 on cpu (the CPU" in said.err and not said.out
    result = json.loads((tmp_path / "finished.json").read_text())
    assert result["finished"] and result["export"] == str(tmp_path / "export")


@pytest.mark.parametrize(
    ("changes", "named", "offer", "kind"),
    [
        ({"machine__precision": "fp16"}, "machine.precision is fp16", "machine.precision=fp32", Mismatch),
        ({"machine__precision": "bf17"}, "'bf17'", "'bf16'", UnknownName),
        ({"machine__engine": "deepsped"}, "'deepsped'", "'deepspeed'", UnknownName),
        (
            {"machine__engine": "deepspeed", "machine__zero_stage": 4},
            "machine.zero_stage '4'",
            "0, 1, 2, 3",
            UnknownName,
        ),
        ({"machine__optimizer_bits": 4}, "machine.optimizer_bits '4'", "32, 8", UnknownName),
        (
            {"machine__optimizer_bits": 8, "machine__engine": "deepspeed"},
            "machine.optimizer_bits=8",
            "machine.engine=torch",
            Mismatch,
        ),
        (
            {"machine__offload_parameters": True},
            "machine.engine=torch",
            "machine.engine=deepspeed and machine.zero_stage=3",
            Mismatch,
        ),
        (
            {"machine__offload_parameters": True, "machine__engine": "deepspeed", "machine__zero_stage": 2},
            "machine.zero_stage=2",
            "machine.zero_stage=3",
            Mismatch,
        ),
        ({"machine__device": "gpu"}, "machine.device 'gpu'", "auto, cpu, cuda", UnknownName),
        ({"optim__decay": "cosin"}, "'cosin'", "'cosine'", UnknownName),
        ({"optim__learning_rate": 0.0}, "optim.learning_rate is 0.0", " 0", BadValue),
        ({"optim__global_batch": -4}, "optim.global_batch is -4", " 0", BadValue),
        ({"optim__ema_decay": 1.0}, "optim.ema_decay is 1.0", "0.999", BadValue),
        ({"optim__gradient_clip": -1.0}, "optim.gradient_clip is -1.0", "0 ", BadValue),
    ],
)
def test_settings_that_cannot_train(shards, tmp_path, changes, named, offer, kind):
    with refuses(named, offer, kind=kind):
        go(shards, tmp_path, **changes)


def test_stage_0_is_plain_torch():
    config = toy_config(machine__engine="deepspeed", machine__zero_stage=0)
    name, reason = engine_name(config.machine)
    assert name == "torch" and "stage 0" in reason


def test_precision_on_the_cpu():
    device = choose_device("cpu")
    assert choose_precision("auto", device).name == "fp32"
    assert choose_precision("bf16", device).dtype == torch.bfloat16
