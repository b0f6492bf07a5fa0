"""A setting that changes nothing in the mode a job is in is said, with the reason; all others are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from birdsd.cli import main
from birdsd.config import compose
from birdsd.runs.effects import without_effect
from tests.support.tiny import make_shards


def lines(job: str, *settings: str) -> list[str]:
    return without_effect(job, settings, compose(job, settings))


@pytest.mark.parametrize(
    ("job", "settings", "key", "why"),
    [
        (
            "train",
            ["method=textual_inversion", "method.style_token=<x>"],
            "method.style_token",
            "per_species",
        ),
        ("train", ["method.train_text_encoder=false"], "method.train_text_encoder", "always learns"),
        ("train", ["model.source=somebody/model"], "model.source", "model.init=scratch"),
        ("train", ["model.clip=x"], "model.clip", "aesthetic_gradients"),
        ("generate", ["guidance=1", "guidance_end=0.5"], "guidance_end=0.5", "guidance=1"),
        ("train", ["method=autoencoder", "model.clip=x"], "model.clip", "feature_weight=0"),
        (
            "train",
            ["method=autoencoder", "method.adversary_channels=8"],
            "method.adversary_channels=8",
            "adversary_weight=0",
        ),
        (
            "train",
            ["method=dreambooth", "method.prior_weight=0", "method.class_samples=5"],
            "method.class_samples=5",
            "prior_weight=0",
        ),
        ("train", ["optim.decay=constant", "optim.min_learning_rate_ratio=0.1"], "optim.min", "constant"),
        ("train", ["save.preview_prompts=[a bird]"], "save.preview_prompts", "preview_every_samples=0"),
        ("train", ["machine=smoke", "machine.zero_stage=3"], "machine.zero_stage=3", "machine.engine=torch"),
        (
            "train",
            ["machine=smoke", "machine.offload_optimizer=true"],
            "machine.offload_optimizer=true",
            "cpu",
        ),
        ("train", ["machine.session_lead_min=5"], "machine.session_lead_min=5", "session_hours=0"),
        ("train", ["machine.vae_tiling=true"], "machine.vae_tiling=true", "train"),
        ("train", ["data.species=[Robin]"], "data.species", "birdsd run prepare"),
        ("cache", ["optim.decay=constant", "optim.min_learning_rate_ratio=0.1"], "optim.min", "constant"),
        ("prepare", ["machine.micro_batch=2"], "machine.micro_batch=2", "prepare"),
        ("generate", ["machine.zero_stage=3"], "machine.zero_stage=3", "generate"),
        ("generate", ["guidance=1", "negative_prompt=rain"], "negative_prompt=rain", "values above 1"),
        ("generate", ["seeds=[1, 2]", "seed=7"], "seed=7", "seeds"),
        ("generate", ["recipe=x.json", "guidance=5"], "guidance=5", "recipe"),
        (
            "generate",
            ["aesthetic_steps=0", "aesthetic_rate=0.1"],
            "aesthetic_rate",
            "aesthetic_steps=0",
        ),
        ("grid", ["x=guidance=1,5", "guidance=7"], "guidance=7", "x axis"),
    ],
)
def test_what_changes_nothing_is_said(job: str, settings: list[str], key: str, why: str) -> None:
    (line,) = lines(job, *settings)
    assert line.startswith(key) and why in line
    assert line.code == "no-effect" and line.startswith(f"{line.facts['key']}=") and why in line.facts["why"]


@pytest.mark.parametrize(
    ("job", "settings"),
    [
        ("train", ["method=lora", "method.rank=16", "method.alpha=8", "method.caption_dropout=0.2"]),
        ("train", ["method=dreambooth", "method.rank=4", "method.class_samples=5"]),
        ("train", ["method=dreambooth", "method.base_method=full", "method.learns=[unet*]"]),
        ("train", ["method=textual_inversion", "method.tokens=style", "method.style_token=<x>"]),
        ("train", ["method=full", "method.rank=0", "machine.zero_stage=2"]),
        ("train", ["method=clip", "model.init=pretrained", "model.source=x/y", "model.clip=x"]),
        ("train", ["method=autoencoder", "method.feature_weight=1", "model.clip=x"]),
        ("train", ["method=autoencoder", "method.adversary_weight=1", "method.adversary_channels=8"]),
        ("train", ["model.init=pretrained", "model.source=x/y", "method.train_text_encoder=false"]),
        ("train", ["machine=node", "machine.zero_stage=3", "machine.offload_parameters=true"]),
        ("train", ["machine.session_hours=6", "machine.session_lead_min=5", "data.shards=x"]),
        ("generate", ["guidance=5", "negative_prompt=rain", "seed=3", "machine.vae_tiling=true"]),
        ("generate", ["recipe=x.json", "out=y", "run=z", "machine.device=cpu"]),
        ("grid", ["x=guidance=1,5", "steps=7"]),
        ("prepare", ["machine.processes=2", "machine=node"]),
        ("methods", ["machine.micro_batch=2", "machine.processes=1"]),
        ("demo", ["machine=smoke"]),
    ],
)
def test_what_counts_is_not_said(job: str, settings: list[str]) -> None:
    assert lines(job, *settings) == []


def test_presets_say_nothing_of_themselves() -> None:
    """Only what somebody typed is told: a preset may hold more than this job needs."""
    for machine in ("auto", "cluster", "laptop-4gb", "node", "notebook", "smoke"):
        for job in ("prepare", "train", "generate"):
            assert lines(job, f"machine={machine}") == []


def test_people_read_it_and_programs_do_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BIRDSD_CONFIGS", str(tmp_path / "own"))
    words = [
        "train",
        f"data.shards={make_shards(tmp_path / 'shards')}",
        "method=autoencoder",
        "method.adversary_channels=4",
    ]
    assert main.main(["submit", *words, "site=testbed", "--dry-run"]) == 0
    assert "method.adversary_channels=4 " in capsys.readouterr().err
    assert main.main(["run", "generate", "run=nothing", "guidance=1", "negative_prompt=x"]) == 2
    assert "negative_prompt=x " in capsys.readouterr().err
    assert main.main(["run", "generate", "run=nothing", "guidance=1", "negative_prompt=x", "--json"]) == 2
    assert "negative_prompt" not in capsys.readouterr().err
