"""Muon: the step is torch's own, and runs with it resume and spread over ranks as others do."""

import json
import signal

import numpy as np
import pytest
import torch
from torch import nn

from birdsd.config import compose, signature
from birdsd.errors import Mismatch, UnknownName
from birdsd.schema import OptimConfig
from birdsd.training.devices.world import World
from birdsd.training.engines import muon
from birdsd.training.engines.flat import FlatParameters
from birdsd.training.engines.muon import Muon, deal, muon_groups, orthogonal
from tests.support.errors import refuses
from tests.support.toy import OPTIM, OddMethod, fork_ranks, losses

MUON = {"optim__optimizer": "muon"}


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, 8, 3)
        self.hidden = nn.Conv2d(8, 6, 3)
        self.linear = nn.Linear(6, 20)
        self.time_embedding = nn.Linear(4, 4)
        self.token_embedding = nn.Embedding(5, 4)
        self.norm = nn.LayerNorm(20)


def parts(model: nn.Module) -> list[set[str]]:
    return [{name for name, _ in group} for group in muon_groups(list(model.named_parameters()))]


def test_maps_between_features_are_muons_and_first_layers_and_embeddings_are_not():
    hidden, others, vectors = parts(Small())
    assert hidden == {"hidden.weight", "linear.weight"}
    assert others == {"conv_in.weight", "time_embedding.weight", "token_embedding.weight"}
    assert vectors == {name for name, p in Small().named_parameters() if p.ndim == 1}


def test_of_a_unet_and_its_text_encoder():
    from birdsd.diffusion.networks.models import build_text_encoder, build_unet

    config = compose("train", ["model=tiny"]).model
    unet = build_unet(config.unet, latent_channels=4, sample_size=(8, 8), context_width=128)
    text = build_text_encoder(config.text, vocabulary=100, max_tokens=8)
    hidden, others, _ = parts(nn.ModuleDict({"unet": unet, "text": text}))
    assert "unet.mid_block.resnets.0.conv1.weight" in hidden
    assert any(name.startswith("text.") and name.endswith("q_proj.weight") for name in hidden)
    modules = {name.split(".")[1] for name in others}
    assert {"conv_in", "conv_out", "time_embedding", "add_embedding"} <= modules
    assert sum("embeddings" in name for name in others) == 2, "of tokens and of places"


@pytest.mark.parametrize("kind", ["cnn", "crnn"])
def test_of_a_classifier_first_and_last_layers_are_not(kind):
    from birdsd.diffusion.classifiers.network import build_network

    hidden, others, _ = parts(build_network({"network": kind, "classes": 3, "width": 16}))
    assert "head.weight" in others and any(name.endswith("stem.weight") for name in others)
    assert hidden and not any("stem" in name or "head" in name for name in hidden)


@pytest.mark.parametrize("shape", [(8, 50), (50, 8), (16, 16)])
@pytest.mark.parametrize("fast", [True, False])
def test_orthogonal_keeps_directions_and_evens_out_singular_values(shape, fast, monkeypatch):
    monkeypatch.setattr(muon, "_cpu_has_bf16", lambda: fast)
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = orthogonal(matrix)
    values = torch.linalg.svdvals(found)
    assert found.dtype == torch.float32 and values.min() > 0.5 and values.max() < 1.3
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    exact = u @ v
    assert (found * exact).sum() / (found.norm() * exact.norm()) > 0.95
    assert not orthogonal(torch.zeros(shape)).any()


def test_steps_are_those_of_torch(monkeypatch):
    monkeypatch.setattr(muon, "_cpu_has_bf16", lambda: True)  # as torch's own computes
    torch.manual_seed(0)
    optim = OptimConfig(**{**OPTIM, "optimizer": "muon", "weight_decay": 0.1})
    ours, theirs = Small(), Small()
    theirs.load_state_dict(ours.state_dict())
    start = {name: parameter.detach().clone() for name, parameter in ours.named_parameters()}
    flat = FlatParameters(muon_groups(list(ours.named_parameters())))
    optimizer = Muon(flat, optim)
    named = dict(theirs.named_parameters())
    hidden, others, vectors = parts(theirs)
    matrices = [nn.Parameter(named[name].detach().flatten(1)) for name in sorted(hidden)]
    reference = torch.optim.Muon(matrices, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(
        [
            {"params": [named[name] for name in sorted(others)], "weight_decay": 0.1},
            {"params": [named[name] for name in sorted(vectors)], "weight_decay": 0.0},
        ],
        betas=(optim.beta1, optim.beta2),
        eps=optim.epsilon,
    )
    for step in range(4):
        rate = 0.02 / (step + 1)
        for name, parameter in ours.named_parameters():
            gradient = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(step))
            parameter.grad.copy_(gradient)
            if name in hidden:
                matrices[sorted(hidden).index(name)].grad = gradient.flatten(1).clone()
            else:
                named[name].grad = gradient.clone()
        for one in (optimizer, reference, adamw):
            for group in one.param_groups:
                group["lr"] = rate
            one.step()
    for name, parameter in ours.named_parameters():
        if name not in hidden:
            torch.testing.assert_close(parameter, named[name], rtol=0, atol=1e-6)
            continue
        way = parameter.detach() - start[name]
        apart = way.flatten(1) - (matrices[sorted(hidden).index(name)] - start[name].flatten(1))
        assert apart.norm() / way.norm() < 0.06, "apart from how bf16 rounds in another order"


class Several(nn.Module):
    """Matrices of all sorts, among them one that costs as much as the others together."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [(6, 20), (64, 70), (20, 6), (8, 8), (5, 30), (12, 9)]
        self.layers = nn.ModuleList(nn.Linear(*size) for size in sizes)
        self.filters = nn.Conv2d(7, 9, 3)


def stepped(world: World) -> tuple[np.ndarray, int]:
    """The weights and momenta after three steps, and how many matrices this rank made orthogonal."""
    made = []
    torch.manual_seed(0)
    model = Several()
    # Small chunks, so that a rank's share may lie in several of them, and a chunk be of several ranks.
    flat = FlatParameters(muon_groups(list(model.named_parameters())), chunk_elements=600)
    optimizer = Muon(flat, OptimConfig(**{**OPTIM, "optimizer": "muon", "weight_decay": 0.1}), world)
    for step in range(3):
        for name, parameter in model.named_parameters():
            draw = torch.Generator().manual_seed(step + len(name))
            parameter.grad.copy_(torch.randn(parameter.shape, generator=draw))
        for group in optimizer.param_groups:
            group["lr"] = 0.01
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(muon, "orthogonal", lambda matrix: made.append(1) or orthogonal(matrix))
            optimizer.step()
    kept = [t for chunk in flat.chunks for t in (chunk.detach(), optimizer.state[chunk]["exp_avg"])]
    return torch.cat(kept).numpy(), len(made)


@pytest.mark.parametrize("ranks", [2, 3, 9])
def test_dealt_out_over_the_ranks_a_step_is_bit_by_bit_that_of_one(ranks, tmp_path):
    def work(rank):
        world = World.from_environment()
        world.start(torch.device("cpu"))
        weights, made = stepped(world)
        np.save(tmp_path / f"{rank}.npy", weights)
        (tmp_path / f"{rank}.txt").write_text(str(made))
        world.close()

    assert fork_ranks(ranks, work, tmp_path / "log.txt") == [0] * ranks, (tmp_path / "log.txt").read_text()
    alone, all_of_them = stepped(World())
    for rank in range(ranks):
        assert np.array_equal(np.load(tmp_path / f"{rank}.npy"), alone)
    made = [int((tmp_path / f"{rank}.txt").read_text()) for rank in range(ranks)]
    assert sum(made) == all_of_them == 3 * 7, "each matrix by one rank, once a step"
    assert max(made) < all_of_them


def test_shares_are_neighbours_and_the_costliest_is_as_cheap_as_can_be():
    draw = np.random.default_rng(0)
    for count in (1, 2, 7, 40):
        for ranks in (1, 2, 3, 8):
            costs = draw.integers(1, 100, count).tolist()
            shares = deal(costs, ranks)
            assert len(shares) == ranks
            assert [n for share in shares for n in range(count)[share]] == list(range(count))
            most = max(sum(costs[share]) for share in shares)
            assert most <= sum(costs) / ranks + max(costs)
    assert deal([1, 1, 1, 1, 4, 1, 1], 3) == [slice(0, 4), slice(4, 5), slice(5, 7)]
    assert deal([], 2) == [slice(0, 0), slice(0, 0)]
    unet = [torch.zeros(shape) for shape in [(1280, 1280), (1280, 2560, 3, 3), (320, 320), (320, 320, 3, 3)]]
    costs = [muon._cost(matrix) for matrix in unet]
    assert costs[1] > costs[0] > costs[3] > costs[2]


def test_killed_and_stopped_it_goes_on_bit_by_bit(children, tmp_path):
    assert children.train(tmp_path / "straight", **MUON) == [0]
    run = tmp_path / "run"
    assert children.train(run, kill="50", **MUON) == [-signal.SIGKILL]
    assert children.train(run, stop_at=80, **MUON) == [0]
    assert children.train(run, **MUON) == [0]
    assert losses(run) == losses(tmp_path / "straight")
    weights = [np.load(r / "export/weights.npy") for r in (run, tmp_path / "straight")]
    assert np.array_equal(*weights)
    assert children.train(tmp_path / "adamw") == [0]
    assert not np.allclose(weights[0], np.load(tmp_path / "adamw/export/weights.npy"), atol=1e-3)


@pytest.mark.parametrize(
    ("world", "changes"),
    [(2, {}), (1, {"machine__micro_batch": 3}), (1, {"machine__offload_optimizer": True})],
    ids=["two ranks", "micro-batches", "offloaded"],
)
def test_learnt_alike_however_the_work_is_cut(children, tmp_path, world, changes):
    assert children.train(tmp_path / "one", method=OddMethod, **MUON) == [0]
    other = tmp_path / "other"
    assert children.train(other, world=world, method=OddMethod, **MUON, **changes) == [0] * world
    ours, theirs = losses(other), losses(tmp_path / "one")
    assert ours.keys() == theirs.keys()
    np.testing.assert_allclose(list(ours.values()), list(theirs.values()), rtol=2e-2)  # bf16 in between
    commit = json.loads((other / "checkpoints/000000000120/COMMIT.json").read_text())
    assert commit["world_size"] == world


def test_two_ranks_killed_and_stopped_go_on_bit_by_bit(children, tmp_path):
    two = {"world": 2, "method": OddMethod, **MUON}
    assert children.train(tmp_path / "straight", **two) == [0, 0]
    run = tmp_path / "run"
    assert children.train(run, kill="50", **two) == [-signal.SIGKILL] * 2
    assert children.train(run, stop_at=80, **two) == [0, 0]
    assert children.train(run, **two) == [0, 0]
    assert losses(run) == losses(tmp_path / "straight")
    assert np.array_equal(*[np.load(r / "export/weights.npy") for r in (run, tmp_path / "straight")])


@pytest.mark.parametrize("job", ["train", "cache"])
@pytest.mark.parametrize(
    ("words", "kind", "named", "offer"),
    [
        (["optim.optimizer=moun"], UnknownName, "'moun'", "'muon'"),
        (["machine=cluster", "optim.optimizer=muon"], Mismatch, "DeepSpeed ZeRO-2", "machine.engine=torch"),
        (
            ["optim.optimizer=muon", "machine.optimizer_bits=8"],
            Mismatch,
            "machine.optimizer_bits=8",
            "machine.optimizer_bits=32",
        ),
    ],
)
def test_what_cannot_be_is_refused_where_it_is_typed_and_not_after_the_queue(job, words, kind, named, offer):
    with refuses(named, offer, kind=kind):
        compose(job, ["model=tiny", "data.shards=shards", *words])


def test_stage_0_is_plain_torch_and_a_usual_optimizer_is_no_other_run():
    words = ["model=tiny", "data.shards=shards"]
    muon_here = [*words, "optim.optimizer=muon", "machine=cluster", "machine.zero_stage=0"]
    assert compose("train", muon_here).optim.optimizer == "muon"
    plain, said, other = (
        signature(compose("train", [*words, *more]))
        for more in ([], ["optim.optimizer=adamw"], ["optim.optimizer=muon"])
    )
    assert plain == said != other
