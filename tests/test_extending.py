"""birdsd is extended from outside: a package with a method, a judge, a codec, a verb and presets, as pip
installs it; docs/extending.md shows the same files."""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
import soundfile
from safetensors.torch import load_file

from birdsd import config, method_facts, plugins
from birdsd.cli.main import main
from birdsd.diffusion.learning.base import LearningMethod, Method
from birdsd.diffusion.methods import make_method
from birdsd.diffusion.parameters import learning_count
from birdsd.errors import BadValue, Mismatch, NotFound, UnknownName, Unsupported, UserError
from birdsd.evaluation.judges import find_judge
from birdsd.planning.trace import trace_step
from birdsd.runs.effects import without_effect
from birdsd.runs.models.hub import needed, weights_shapes
from birdsd.shards.index import ShardIndex
from birdsd.shards.reader import ShardReader
from birdsd.sound.audio.recordings import write_wav
from birdsd.sound.codec import Codec, SpectrogramCodec
from birdsd.training.work import RunWork
from jobs import generate
from tests.support.errors import refuses
from tests.support.tiny import CODEC, make_shards
from tests.support.untrained import make_model

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")


def shown(name: str) -> str:
    """The file of this name as the page shows it: a block of code whose first line names it."""
    found = re.search(rf"```\w+\n# {re.escape(name)}\n(.*?)```", PAGE, re.DOTALL)
    assert found, f"docs/extending.md does not show {name}"
    return found[1]


def points_of(pyproject: str) -> str:
    """The entry points of a pyproject.toml, as an installer writes them beside the package."""
    points = pyproject.partition("[project.entry-points")[2].replace('"', "")
    return re.sub(r"\[project\.entry-points\.(.*?)\]", r"[\1]", f"[project.entry-points{points}")


def install(site: Path, points: str, **modules: str) -> None:
    """A package as it lies in site-packages."""
    about = site / "toybirds-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: toybirds\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(dedent(points))
    for name, text in modules.items():
        path = site / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def looked_up(monkeypatch, site: Path) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "toybirds"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(site))
    plugins.forget()


@pytest.fixture
def site(tmp_path, monkeypatch):
    """The package of docs/extending.md, installed."""
    folder = tmp_path / "site-packages"
    files = ("__init__.py", "method.py", "presets/method/biases.yaml", "judge.py", "verb.py")
    files += ("codec.py", "presets/codec/phase.yaml")
    install(
        folder, points_of(shown("pyproject.toml")), **{f"toybirds/{n}": shown(f"toybirds/{n}") for n in files}
    )
    looked_up(monkeypatch, folder)
    yield folder
    monkeypatch.undo()
    plugins.forget()


def settings_of(base: Path) -> list[str]:
    return [
        "model=tiny", "method=biases", "model.init=pretrained", f"model.source={base}", "machine=smoke",
        "optim.global_batch=4", "optim.total_samples=8", "optim.warmup_samples=0", "optim.learning_rate=0.01",
        "save.preview_every_samples=0", "machine.cache_latents=false",
    ]  # fmt: skip


def test_a_method_is_trained_and_exported_as_one_of_ours(site, tmp_path) -> None:
    base, shards = make_model(tmp_path / "base"), make_shards(tmp_path / "shards")
    settings = config.compose("train", settings_of(base))
    assert settings.method.caption_dropout == 0.25, "as its preset says"
    index = ShardIndex.open(shards)
    result = RunWork(settings, index, tmp_path / "run").by(make_method(settings, index))
    assert result.finished and result.position == 8
    before, after = (
        load_file(str(folder / "unet" / "diffusion_pytorch_model.safetensors"))
        for folder in (base, result.export)
    )
    moved = {name for name in before if not before[name].equal(after[name])}
    assert moved and all(name.endswith(".bias") for name in moved)
    learnt = learning_count(settings, weights_shapes(base), 2)
    assert learnt == sum(value.numel() for name, value in before.items() if name.endswith(".bias"))
    assert trace_step(settings, CODEC.to_json(), 1).learning == learnt


def test_a_method_has_settings_of_its_own(site, tmp_path, capsys) -> None:
    """They are typed, listed, stored and signed as those of our methods, and no other method takes them."""
    typed = [*settings_of(tmp_path), "method.blocks=up_blocks."]
    settings, usual = config.compose("train", typed), config.compose("train", settings_of(tmp_path))
    assert (settings.method.blocks, usual.method.blocks) == ("up_blocks.", "")
    assert set(dataclasses.asdict(settings.method)) == {
        "name",
        "species_balance",
        "min_snr_gamma",
        "caption_dropout",
        "blocks",
    }
    shapes = {"unet": {"up_blocks.0.bias": (3,), "down_blocks.0.bias": (4,), "up_blocks.0.weight": (5, 5)}}
    assert (learning_count(settings, shapes, 2), learning_count(usual, shapes, 2)) == (3, 7)
    assert config.signature(settings) != config.signature(usual)
    assert config.changed("train", config.as_dict(settings), ["seed=3"]).method == settings.method
    assert config.altered("train", usual, "method.blocks", "up_blocks.").method == settings.method
    again = config.compose("train", list(config.settings_as_typed(config.as_dict(settings))))
    assert again.method == settings.method
    with refuses("'method.block'", "'method.blocks'", kind=UnknownName):
        config.compose("train", [*settings_of(tmp_path), "method.block=x"])
    with refuses("'method.blocks'", kind=UnknownName):
        config.compose("train", ["method=lora", "method.blocks=x"])
    assert main(["run", "train", *typed, "--keys", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["method"]["blocks"] == "up_blocks."
    assert main(["run", "train", *typed, "--keys"]) == 0
    assert "method.blocks=up_blocks.\n" in capsys.readouterr().out


def test_what_others_ask_of_a_method_is_asked_of_it_too(site, tmp_path) -> None:
    settings = config.compose("train", settings_of(tmp_path))
    assert needed(settings)[0].parts == ("unet", "text_encoder", "tokenizer", "vae")
    assert [line.split("=")[0] for line in without_effect("train", ["model.clip=x/y"], settings)] == []
    facts = method_facts.facts_of(settings.method)
    assert facts in method_facts.known() and "biases" in method_facts.names()
    with refuses(("method.rank=4", "method=biases"), kind=Mismatch):
        config.compose("train", [*settings_of(tmp_path), "method.rank=4"])
    with refuses("'biase'", "'biases'", kind=UnknownName) as caught:
        config.compose("train", ["method=biase"])
    assert "method=biase" in caught.value.problem or "biase" in caught.value.problem


def test_a_login_node_imports_no_torch_for_it(site, tmp_path) -> None:
    code = (
        "import sys; from birdsd import config, method_facts;"
        f"c = config.compose('train', {settings_of(tmp_path)!r}); f = method_facts.facts_of(c.method);"
        "print(f.name, f.trains, [m for m in ('torch', 'diffusers', 'toybirds.method') if m in sys.modules])"
    )
    told = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=True, cwd=ROOT, env={"PYTHONPATH": f"{site}:{ROOT}"},
    )  # fmt: skip
    assert told.stdout.strip() == "biases True []"


def test_a_judge_hears_by_its_name(site, tmp_path, capsys) -> None:
    time_s = np.arange(16000) / 16000
    for name, hz in (("high", 6000), ("low", 500)):
        (tmp_path / "sounds" / f"{name} bird").mkdir(parents=True)
        tone = 0.5 * np.sin(2 * np.pi * hz * time_s)
        write_wav(tmp_path / "sounds" / f"{name} bird" / "one.wav", tone.astype(np.float32), 16000)
    assert find_judge("pitch").title == "Pitch"
    assert main(["judge", str(tmp_path / "sounds"), "--judge", "pitch", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    named = {one["species"]: one["named"] for one in told["verdicts"]}
    assert named == {"High Bird": "High Bird", "Low Bird": "Low Bird"}
    with refuses("judge=pitches", kind=NotFound):
        find_judge("pitches")


@pytest.fixture
def recordings(tmp_path) -> Path:
    """Two chirps of each of two species, 1.5 s long."""
    time_s = np.arange(24000) / 16000
    for number, (species, hz) in enumerate([("Low Bird", 700), ("High Bird", 4000)] * 2):
        chirp = 0.4 * np.sin(2 * np.pi * (hz + 600 * (1 + number % 2) * time_s) * time_s)
        place = tmp_path / "recordings" / species / f"{number}.wav"
        place.parent.mkdir(parents=True, exist_ok=True)
        write_wav(place, chirp.astype(np.float32), 16000)
    return tmp_path / "recordings"


def test_a_codec_of_another_kind_prepares_trains_and_generates(site, recordings, tmp_path, capsys) -> None:
    shards = tmp_path / "shards"
    prepared = ["run", "prepare", "codec=phase", f"data.recordings={recordings}", f"data.shards={shards}"]
    prepared += ["data.segmentation=windows", "machine.processes=1", "codec.floor_db=-70"]
    assert main(prepared) == 0
    stored = json.loads((shards / "codec.json").read_text())
    assert (stored["kind"], stored["image_channels"], stored["floor_db"]) == ("phase", 3, -70.0)
    index = ShardIndex.open(shards)
    assert index.dataset["image_shape"] == [3, 64, 128]
    assert ShardReader(index, "train").read(0).image.shape == (3, 64, 128)
    assert not list(index.verify())
    capsys.readouterr()
    assert main(["inspect", str(shards)]) == 0 and "64 bands 125-8000 Hz" in capsys.readouterr().out

    full = [word for word in settings_of(make_model(tmp_path / "base")) if word != "method=biases"]
    settings = config.compose("train", ["method=full", *full])
    result = RunWork(settings, index, tmp_path / "run").by(make_method(settings, index))
    assert result.finished and result.position == 8, "two steps"
    assert trace_step(settings, stored, 1).learning > 0

    asked = [f"run={result.export}", "prompt=a Low Bird", "steps=2", f"out={tmp_path / 'made'}"]
    (clip,) = generate.run(config.compose("generate", asked)).facts["clips"]
    sound, rate_hz = soundfile.read(clip["sound"])
    assert (sound.shape, rate_hz) == ((128 * 64,), 16000) and np.abs(sound).max() > 0
    codec = Codec.from_json(json.loads((result.export / "codec.json").read_text()))
    assert type(codec).__name__ == "PhaseCodec" and codec.fingerprint() == index.codec_fingerprint


def test_a_codec_of_another_kind_is_audited_beside_ours(site, recordings, tmp_path, capsys) -> None:
    codecs = ["codec=phase", "codec=birdsong-tiny", "codec=phase", "codec.floor_db=-20"]
    assert main(["audit", str(recordings), *codecs, "--out", str(tmp_path / "audit"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    phase, ours, coarse = found["codecs"]
    assert [one["settings"]["name"] for one in found["codecs"]] == ["phase", "birdsong-tiny", "phase-2"]
    assert phase["overall_db"] < -20 and phase["overall_db"] < ours["overall_db"] - 5, "no phase is guessed"
    assert coarse["settings"]["floor_db"] == -20 and coarse["overall_db"] > phase["overall_db"]


def test_the_keys_of_a_codec_are_those_of_its_kind(site, capsys) -> None:
    assert config.compose("prepare", ["codec=phase", "codec.bands=16"]).codec.bands == 16
    with refuses("griffin_lim_iterations", kind=UnknownName):
        config.compose("prepare", ["codec=phase", "codec.griffin_lim_iterations=3"])
    with refuses("codec.bands=many", kind=BadValue):
        config.compose("prepare", ["codec=phase", "codec.bands=many"])
    with refuses("channels=2"):
        Codec.from_config(config.compose("prepare", ["codec=phase", "codec.channels=2"]).codec)
    assert main(["run", "prepare", "codec=phase", "--keys"]) == 0
    keys = [line.split("=")[0] for line in capsys.readouterr().out.splitlines()]
    assert "codec.floor_db" in keys and "codec.kind" in keys and "codec.hop_ms" not in keys
    kept = config.as_dict(config.compose("prepare", ["codec=phase", "codec.floor_db=-60"]))
    again = config.changed("prepare", kept, ["codec.bands=32"])
    assert Codec.from_config(again.codec).to_json() == {
        **Codec.from_config(config.compose("prepare", ["codec=phase"]).codec).to_json(),
        "floor_db": -60.0, "bands": 32,
    }  # fmt: skip


def test_a_codec_whose_package_is_not_here_is_named(site, tmp_path, monkeypatch) -> None:
    codec = Codec.from_config(config.compose("prepare", ["codec=phase"]).codec)
    stored = make_shards(tmp_path / "shards")
    (stored / "codec.json").write_text(json.dumps(codec.to_json()))
    assert ShardIndex.open(stored).pixels.shape == (3, 64, 128), "the shape is told without the class"
    for other in (SpectrogramCodec().to_json(), codec.to_json()):
        with refuses("image_channels=2", kind=Mismatch):
            Codec.from_json({**other, "image_channels": 2})
    with refuses("'scale'", kind=UnknownName):
        Codec.from_json({**codec.to_json(), "scale": "mel"})
    with refuses("'phase'", kind=Mismatch):
        SpectrogramCodec.from_json(codec.to_json())
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place != str(site)])
    plugins.forget()
    for asked in (lambda: Codec.from_json(codec.to_json()), lambda: ShardIndex.open(stored).fingerprint):
        with refuses("'phase'", kind=UnknownName):
            asked()
    preset = tmp_path / "mine.yaml"
    preset.write_text("# mine\nkind: phase\n")
    with refuses("'phase'", kind=UnknownName):
        config.compose("prepare", [f"codec={preset}"])
    preset.write_text("# ours\nkind: spectrogram\nbands: 64\n")
    assert Codec.from_config(config.compose("prepare", [f"codec={preset}"]).codec).bands == 64


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("class C:\n    pass", "class of a codec"),
        ("@dataclass\nclass C(Codec):\n    kind = 'c'", "frozen dataclass"),
        ("@dataclass(frozen=True)\nclass C(Codec):\n    kind = 'd'", "'d'"),
        (
            "@dataclass(frozen=True)\nclass C(Codec):\n    kind = 'c'\n    name: str",
            "default of name, ",
        ),
        ("@dataclass(frozen=True)\nclass C(Codec):\n    kind = 'c'", "bands, channels, decode, dequantise"),
    ],
)
def test_a_class_that_is_no_codec_is_refused(text: str, what: str, tmp_path, monkeypatch) -> None:
    start = "from dataclasses import dataclass\nfrom birdsd.sound.codec.protocol import Codec\n"
    install(tmp_path, "[birdsd.codecs]\nc = toybirds:C\n", **{"toybirds/__init__.py": f"{start}{text}\n"})
    looked_up(monkeypatch, tmp_path)
    with refuses(("toybirds.C", what), kind=BadValue):
        Codec.from_json({"kind": "c"})
    monkeypatch.undo()
    plugins.forget()


def test_no_room_knows_what_kind_a_codec_is() -> None:
    """Outside of sound/codec, a codec is what the protocol says; settings of one kind are its own affair."""
    own = {item.name for item in fields(SpectrogramCodec)} - {*Codec.__annotations__}
    of_a_kind = re.compile(
        rf"SpectrogramCodec|\bcodec\.(?:{'|'.join(sorted(own))}|stft|window|quantise)\b(?!=)"
    )
    rooms = [path for path in ROOT.glob("birdsd/**/*") if path.suffix in (".py", ".html")]
    for path in [*rooms, *ROOT.glob("jobs/*.py")]:
        if ROOT / "birdsd" / "sound" / "codec" not in path.parents and path.name != "schema.py":
            assert not of_a_kind.findall(path.read_text(encoding="utf-8")), path


def test_a_verb_is_run_by_its_name(site, capsys) -> None:
    birds = ["a", "robin"]
    assert main(["greet", *birds]) == 0
    assert capsys.readouterr().out == f"tweet, {' '.join(birds)}\n"
    assert main(["greet"]) == 2 and "nobody" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["greed"])
    assert "greet" in capsys.readouterr().err


def test_nothing_takes_the_place_of_ours(tmp_path, monkeypatch) -> None:
    """A package that calls its method, verb and preset as one of ours, and says so loudly when imported."""
    points = """
        [birdsd.methods]
        lora = toybirds:LORA
        [birdsd.verbs]
        status = toybirds:status
        [birdsd.configs]
        toybirds = toybirds
        """
    preset = "# not ours\nname: lora\nrank: 77\n"
    install(
        tmp_path, points,
        **{"toybirds/__init__.py": "raise RuntimeError('imported')\n", "toybirds/method/lora.yaml": preset},
    )  # fmt: skip
    looked_up(monkeypatch, tmp_path)
    assert config.compose("train", ["method=lora"]).method.rank != 77
    assert method_facts.find("lora") is next(one for one in method_facts.built_in() if one.name == "lora")
    assert len(method_facts.known()) == len(method_facts.built_in())
    assert main(["status", "--runs", str(tmp_path / "none"), "--json"]) in (0, 2)
    monkeypatch.undo()
    plugins.forget()


@pytest.mark.parametrize(
    ("text", "kind", "what"),
    [
        ("raise RuntimeError('odd')", Unsupported, "(odd)"),
        ("FACTS = 'no facts'", BadValue, "'no facts'"),
        (
            "from birdsd.method_facts import CLIP, MethodFacts\n"
            "FACTS = MethodFacts('broken', 'a:B', CLIP, lambda *_: 0, config=dict)",
            BadValue,
            "<class 'dict'>",
        ),
    ],
)
def test_a_package_that_does_not_work_is_named(
    text: str, kind: type[UserError], what: str, tmp_path, monkeypatch
) -> None:
    install(tmp_path, "[birdsd.methods]\nbroken = toybirds:FACTS\n", **{"toybirds/__init__.py": f"{text}\n"})
    looked_up(monkeypatch, tmp_path)
    assert config.compose("train", ["method=lora"]).method.name == "lora", "others do not mind"
    with refuses(("broken", what), kind=kind):
        method_facts.find("broken")
    monkeypatch.undo()
    plugins.forget()


def test_ours_are_declared_once_and_found_without_torch() -> None:
    """Every method has a preset of its name, its class lies where its facts say; no torch is needed."""
    presets = {preset.name for preset in config.presets()["method"]}
    assert {one.name for one in method_facts.built_in()} <= presets
    titles = [one.title for one in method_facts.built_in()]
    assert len(set(titles)) == len(titles)
    for one in method_facts.built_in():
        path = ROOT / (one.make.partition(":")[0].replace(".", "/") + ".py")
        assert f"class {one.make.partition(':')[2]}(" in path.read_text(encoding="utf-8")
    code = "import sys; from birdsd import method_facts; method_facts.known(); print('torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert told.stdout.strip() == "False"


def test_no_name_of_a_method_stands_where_methods_are_asked() -> None:
    """The rooms that once knew methods by name; what studies compare is data."""
    names = {name for one in method_facts.built_in() for name in (one.name, one.title)}
    names -= {"autoencoder", "clip", "full"}  # of models and parts too
    for room in ("planning", "checks", "runs", "training", "diffusion/learning", "cluster", "site"):
        for path in (ROOT / "birdsd" / room).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            assert not {name for name in names if re.search(rf"[\"']{name}[\"']", text)}, path.name
            assert not re.findall(r"method\.name (?:==|!=|in|not in) ", text), path.name


def test_a_method_is_not_probed_for_what_it_can() -> None:
    """What a method has, its facts and its protocol say; `run` is its own."""
    for path in [*ROOT.glob("birdsd/**/*.py"), *ROOT.glob("jobs/*.py")]:
        assert "hasattr(method" not in path.read_text(encoding="utf-8"), path
    for one in method_facts.built_in():
        module, _, kind = one.make.partition(":")
        made = getattr(importlib.import_module(module), kind)
        assert (LearningMethod if one.trains else Method) in made.__mro__
        assert callable(made.run) and hasattr(made, "build") == one.trains
        assert not one.caches or all(hasattr(made, name) for name in ("pictures_made", "pictures_missing"))
