"""Presets, settings, signatures: what a user types and what comes of it."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path

import pytest

from birdsd import config, schema
from birdsd.errors import BadValue, Mismatch, UnknownName, UserError
from birdsd.method_facts import built_in
from tests.support.errors import refuses


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
    ("job", "setting", "kind", "named", "offer"),
    [
        ("trian", "", UnknownName, "'trian'", "'train'"),
        ("train", "machine=laptop", UnknownName, "'laptop'", "'laptop-4gb'"),
        ("train", "modle=tiny", UnknownName, "'modle'", "'model'"),
        ("train", "optim.learning_rat=1", UnknownName, "'optim.learning_rat'", "'optim.learning_rate'"),
        ("train", "optim.global_batch=many", BadValue, "optim.global_batch=many", "whole number"),
        ("train", "machine", BadValue, "'machine'", "group=preset or key=value"),
        ("train", "model.unet.x=[1", BadValue, "model.unet.x=[1", "YAML"),
        ("train", "=3", BadValue, "'=3'", "group=preset or key=value"),
        ("prepare", "data=sogn", UnknownName, "'sogn'", "song"),
        ("generate", "data=some/folder", UnknownName, "'data'", "birdsd run generate --keys"),
    ],
)
def test_mistakes_are_named_with_the_nearest_valid_name(
    job: str, setting: str, kind: type[UserError], named: str, offer: str
) -> None:
    with refuses(named, offer, kind=kind):
        config.compose(job, [setting] if setting else [])


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


FORMS = {
    "autoencoder": [],
    "full": [],
    "lora": [],
    "textual_inversion": [],
    "dreambooth_lora": ["method.base_method=lora"],
    "dreambooth_full": ["method.base_method=full"],
    "clip": [],
    "upscaler": [],
    "classifier": [],
    "aesthetic_gradients": [],
}


def anything_else(value: object) -> str:
    """Another value of the same kind as a default."""
    if isinstance(value, bool) or value is None:
        return str(not value).lower() if value is not None else "v_prediction"
    if isinstance(value, (int, float)):
        return str(type(value)(value + 3))
    return "[a, b]" if isinstance(value, list) else f"{value}x"


@pytest.mark.parametrize("form", FORMS)
def test_a_key_of_another_method_is_refused_and_one_of_its_own_is_not(form: str) -> None:
    """All keys of `method` with all methods: each is taken, or refused by the names of those that have it."""
    name = form.partition("_")[0] if form.startswith("dreambooth") else form
    words = [f"method={name}", *FORMS[form]]
    settled = config.compose("train", words)
    defaults = {
        key.split(".")[1]: value for key, value in config.keys(schema.TrainConfig) if "method." in key
    }
    owners = {
        key: [one.title for one in built_in() if key in one.keys]
        for key in defaults
        if key not in ("name", "base_method", "species_balance")  # of every method, or it chooses the form
    }
    assert all(owners.values())
    for key, methods in owners.items():
        default = defaults[key]
        value = {"zero_terminal_snr": "true"}.get(key) or anything_else(default)
        # As `compose` does it, without reading the presets once more for each.
        if form in methods:
            assert getattr(config.altered("train", settled, f"method.{key}", value).method, key) != default
            continue
        with pytest.raises(Mismatch) as caught:
            config.altered("train", settled, f"method.{key}", value)
        assert caught.value.problem.startswith(f"method.{key}=") and f"method={name}" in caught.value.problem
        assert all(one.partition("_")[0] in caught.value.expected for one in methods)


@pytest.mark.parametrize(
    ("words", "way"),
    [
        (["method=full", "method.rank=4"], "method=lora"),
        (["method=lora", "method.train_text_encoder=false"], "method=full"),
        (["method=dreambooth", "method.base_method=full", "method.rank=4"], "method.base_method=lora"),
        (["method=clip", "method.caption_dropout=0.5"], "method=textual_inversion"),
    ],
)
def test_typed_it_is_refused_by_every_job_that_trains(words: list[str], way: str) -> None:
    for job in ("train", "cache"):
        with refuses(words[-1], way, kind=Mismatch):
            config.compose(job, words)


def test_a_preset_of_ones_own_is_held_to_the_same(tmp_path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("# mine\nname: full\nrank: 4\n")
    with refuses(("method.rank=4", "method=full"), kind=Mismatch):
        config.compose("train", [f"method={path}"])
    path.write_text("# mine\nname: lora\nrank: 4\n")
    assert config.compose("train", [f"method={path}"]).method.rank == 4


def test_advice_of_a_model_preset_goes_to_its_own_method_alone(tmp_path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(
        "# mine\nname: own\nrecommended:\n  lora: {rank: 5}\n  full: {prediction: v_prediction}\n"
    )
    assert config.compose("train", [f"model={path}", "method=lora"]).method.rank == 5
    full = config.compose("train", [f"model={path}", "method=full"]).method
    assert full.prediction == "v_prediction" and not hasattr(full, "rank")
    # What another method has by default changes nothing, and is accepted.
    assert config.compose("train", ["method=full", "method.rank=0", "method.word=rare"]).method.name == "full"


def test_a_run_that_was_stored_with_such_a_key_is_read() -> None:
    """Whether every method's settings stood in it, as before each had its own, or one that did nothing."""
    settled = config.compose("train", ["method=full", "method.caption_dropout=0.25"])
    stored = config.as_listed(settled)
    assert stored["method"]["rank"] == 0
    for rank in (0, 4):
        stored["method"]["rank"] = rank
        read = config.changed("train", stored, ["optim.total_samples=7"])
        assert read.method == settled.method and read.optim.total_samples == 7
    assert config.signature(config.changed("train", stored, [])) == config.signature(settled)


def test_a_run_of_a_method_that_is_not_installed_any_more_is_read() -> None:
    stored = config.as_dict(config.compose("train", []))
    stored["method"] = {"name": "of another package", "species_balance": 0.5, "own": 3}
    read = config.changed("train", stored, [])
    assert (read.method.name, read.method.species_balance) == ("of another package", 0.5)


def test_a_key_has_one_default_whichever_method_it_is_of() -> None:
    """Signatures leave defaults out, and `--keys` shows one for all."""
    seen: dict[str, object] = {}
    for facts in built_in():
        assert (facts.config.__doc__ and facts.config is not schema.MethodConfig) or not facts.keys
        for key, value in dataclasses.asdict(facts.config(name="x")).items():
            assert seen.setdefault(key, value) == value, (facts.title, key)


def test_forms_of_a_method_have_settings_of_their_own() -> None:
    forms = {
        form: config.compose("train", ["method=dreambooth", f"method.base_method={form}"])
        for form in ("lora", "full")
    }
    assert forms["lora"].method.rank and not hasattr(forms["full"].method, "rank")
    assert forms["full"].method.train_text_encoder and not hasattr(forms["lora"].method, "learns")
    other = config.altered("train", forms["lora"], "method.base_method", "full").method
    assert type(other) is type(forms["full"].method)
    with refuses(("'ful'", "method.base_method"), kind=UnknownName):
        config.compose("train", ["method=dreambooth", "method.base_method=ful"])


def test_a_noise_setting_that_says_what_is_usual_is_kept_for_the_base_to_contradict() -> None:
    """It is no setting of the method, and not silently ignored on a base that predicts something else."""
    lora = config.compose("train", ["method=lora", "method.prediction=epsilon"])
    assert lora.method.noise == {"prediction": "epsilon"} and "noise" not in config.as_dict(lora)["method"]
    assert config.signature(lora) == config.signature(config.compose("train", ["method=lora"]))


def test_an_unknown_method_is_refused_when_it_is_typed(tmp_path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("# mine\nname: lorra\n")
    with refuses("'lorra'", "'lora'", kind=UnknownName):
        config.compose("train", [f"method={path}"])


def test_a_preset_of_ones_own_takes_the_place_of_a_default_one(tmp_path, monkeypatch) -> None:
    """A job starts from the user's preset where it has the name of the one that it usually starts from."""
    for group, name, text in (
        ("method", "full", "caption_dropout: 0.75"),
        ("site", "local", "partition: mine"),
    ):
        path = tmp_path / group / f"{name}.yaml"
        path.parent.mkdir()
        path.write_text(f"# mine\n{text}\n")
    monkeypatch.setenv("BIRDSD_CONFIGS", str(tmp_path))
    for settings in ([], ["method=full"]):
        assert config.compose("train", settings).method.caption_dropout == 0.75
    assert config.compose("submit").site.partition == "mine"


def test_the_models_that_a_run_stands_on_are_listed_once() -> None:
    """A place of its own for the list is one that forgets a model when there is another."""
    root = Path(__file__).resolve().parents[1]
    lists = []
    for path in [*root.glob("birdsd/**/*.py"), *root.glob("jobs/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Tuple, ast.List, ast.Set)):
                words = {one.value for one in node.elts if isinstance(one, ast.Constant)}
                words = {word.removeprefix("model.") for word in words if isinstance(word, str)}
                if len(words & set(schema.MODEL_KEYS)) > 1 and words <= set(schema.MODEL_KEYS):
                    lists.append((path.name, tuple(sorted(words))))
    # Of a signature (runs/run.py) the first two are part even where they are not named.
    assert sorted(lists) == [
        ("__init__.py", ("autoencoder", "clip", "source")), ("run.py", ("autoencoder", "source")),
    ]  # fmt: skip
