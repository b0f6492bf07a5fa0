"""Presets, settings, signatures: what a user types and what comes of it."""

from __future__ import annotations

import dataclasses

import pytest

from birdsd import config, schema
from birdsd.errors import UserError


def test_presets_fill_the_schema_and_settings_win() -> None:
    settings = config.compose("train", ["machine=laptop-4gb", "optim.learning_rate=1e-4", "save.keep=3"])
    assert (settings.machine.name, settings.machine.micro_batch) == ("laptop-4gb", 1)
    assert settings.optim.learning_rate == 1e-4
    assert settings.save.keep == 3
    assert isinstance(settings, schema.TrainConfig)


def test_every_preset_composes_and_has_a_line() -> None:
    for group, found in config.presets().items():
        for preset in found:
            assert preset.line, f"{group}/{preset.name} has no first comment line"
            job = next(job for job, groups in schema.GROUP_DEFAULTS.items() if group in groups)
            settings = config.compose(job, [f"{group}={preset.name}"])
            assert getattr(settings, group).name == preset.name


@pytest.mark.parametrize(
    ("job", "setting", "expected"),
    [
        ("trian", "", "Did you mean 'train'?"),
        ("train", "machine=laptop", "Did you mean 'laptop-4gb'?"),
        ("train", "modle=tiny", "Did you mean 'model'?"),
        ("train", "optim.learning_rat=1", "Did you mean 'optim.learning_rate'?"),
        ("train", "optim.global_batch=many", "optim.global_batch=many does not fit. it is a whole number"),
        ("train", "machine", "a setting is group=preset or key=value"),
        ("train", "model.unet.x=[1", "not valid YAML"),
        ("train", "=3", "a setting is group=preset or key=value"),
        ("prepare", "data=sogn", "valid: song"),
    ],
)
def test_mistakes_are_named_with_the_nearest_valid_name(job: str, setting: str, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        config.compose(job, [setting] if setting else [])
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    "prompt",
    [
        "a, b = c",
        "[unclosed bird",
        "[{a: b}]",
        'it\'s [one] {two} "three"',
        "${oc.env:HOME}",
        "--dash",
        "null-ish",
        "Zaunkönig # 7: x",
        "a\\b$",
    ],
)
def test_a_prompt_may_hold_anything(prompt: str) -> None:
    assert config.compose("generate", [f"prompt={prompt}"]).prompt == [prompt]
    assert config.compose("generate", [f"negative_prompt={prompt}"]).negative_prompt == prompt


def test_a_list_and_null_are_read_as_such() -> None:
    assert config.compose("generate", ['prompt=["a, b", "c"]']).prompt == ["a, b", "c"]
    assert config.compose("train", ["name=null"]).name is None


def test_data_may_be_a_folder(tmp_path) -> None:
    settings = config.compose("prepare", [f"data={tmp_path}"])
    assert (settings.data.name, settings.data.recordings) == ("song", str(tmp_path))


def test_the_signature_is_of_the_science_alone() -> None:
    def mark(*settings: str, data: str = "d") -> str:
        return config.signature(config.compose("train", ["model=small", *settings]), data=data)

    base = mark()
    machines = [preset.name for preset in config.presets()["machine"]]
    assert {mark(f"machine={name}") for name in machines} == {base}
    assert mark("save.every_samples=7", "name=x", "runs=elsewhere", "data.shards=/other/place") == base
    different = {
        mark("seed=1"),
        mark("optim.learning_rate=0.5"),
        mark("method.caption_dropout=0.2"),
        mark(data="e"),
    }
    assert len(different | {base}) == 5
    # What a run of an earlier version stored, before these were left open.
    usual = ["prediction=epsilon", "noise_schedule=scaled_linear", "zero_terminal_snr=false"]
    assert mark(*(f"method.{one}" for one in usual)) == base
    assert mark("method.prediction=v_prediction") != base


def test_what_is_said_of_the_noise_sets_aside_all_that_the_model_recommends_of_it() -> None:
    def noise(*settings: str) -> tuple:
        method = config.compose("train", ["model=tiny", "method=full", *settings]).method
        return method.prediction, method.zero_terminal_snr

    assert noise() == ("v_prediction", True)
    assert noise("method.prediction=epsilon") == ("epsilon", None)
    assert noise("method.zero_terminal_snr=false") == (None, False)
    assert noise("model.init=pretrained", "model.source=x") == (None, None)


def test_recommended_optimizer_settings_give_way_to_the_users() -> None:
    tiny = config.compose("train", ["model=tiny"])
    advice = tiny.model.recommended["full"]
    assert tiny.optim.learning_rate == advice["learning_rate"]
    assert config.compose("train", ["model=tiny", "optim.learning_rate=0.25"]).optim.learning_rate == 0.25
    assert all(value is not None for value in dataclasses.asdict(tiny.optim).values())
