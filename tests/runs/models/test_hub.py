"""What is fetched for compute nodes without internet, what counts as complete, and what is said offline."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from fnmatch import fnmatch
from math import prod
from pathlib import Path
from typing import get_type_hints

import pytest

from birdsd.config import compose
from birdsd.errors import BadValue, Damaged, NotFound
from birdsd.files import write_json
from birdsd.runs.models import hub
from birdsd.schema import MODEL_KEYS, ModelConfig, Text
from tests.support.errors import refuses
from tests.support.hub import MODEL, into_cache, pipeline, safetensors
from tests.support.remarks import codes, remarked


def parameters(folder: Path) -> dict[str, int]:
    """Parameters by part, from the shapes that hub reads."""
    return {part: sum(map(prod, shapes.values())) for part, shapes in hub.weights_shapes(folder).items()}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return tmp_path / "hf" / "hub"


def said(words: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """What `cache_models` says in a process of its own: the hub's library reads its settings on import."""
    script = (
        "import json, sys\nfrom birdsd.runs.models.hub import cache_models\n"
        "from birdsd.errors import UserError\n"
        "try:\n    facts, text = cache_models(sys.argv[1:])\n"
        "except UserError as error:\n    sys.exit(str(error))\n"
        "print(json.dumps({**facts, 'text': text, 'torch': 'torch' in sys.modules}))"
    )
    return subprocess.run(
        [sys.executable, "-c", script, *words], capture_output=True, text=True, timeout=120,
        env={**os.environ, **environment}, check=False,
    )  # fmt: skip


# -- what is there --------------------------------------------------------------------------------------


def test_a_folder_is_checked(tmp_path: Path) -> None:
    folder = pipeline(tmp_path / "model")
    facts, text = hub.cache_models([str(folder)])
    (one,) = facts["models"]
    assert one["kind"] == "folder" and one["parts"] == list(hub.PARTS) and "complete" in text
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(folder / "unet" / "weights.bin")
    with refuses("unet: no diffusion_pytorch_model.safetensors", "safetensors", kind=Damaged):
        hub.cache_models([str(folder)])


def test_weights_in_several_files(tmp_path: Path) -> None:
    folder = pipeline(tmp_path / "model")
    whole = folder / "unet" / "diffusion_pytorch_model.safetensors"
    names = [f"diffusion_pytorch_model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    write_json(whole.with_name(whole.name + ".index.json"), {"weight_map": {"a": names[0], "b": names[1]}})
    whole.rename(whole.with_name(names[0]))
    assert hub.missing(folder, ("unet",)) == [f"unet: no {names[1]}"]
    safetensors(whole.with_name(names[1]), {"b": [4]})
    assert hub.missing(folder) == []


def test_a_folder_of_one_part_and_a_run(tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    write_json(alone / "config.json", {"_class_name": "AutoencoderKL"})
    safetensors(alone / "diffusion_pytorch_model.safetensors", {"a": [7]})
    assert hub.parts_of(alone) == ("vae",) and hub.missing(alone, ("vae",)) == []
    assert remarked(hub.missing(alone, ("unet",)), "part-missing").facts == {"part": "unet"}
    assert parameters(alone) == {"vae": 7}
    run = tmp_path / "run"
    pipeline(run / "export")
    assert hub.missing(run) == []
    assert parameters(run) == {"vae": 10, "unet": 10, "text_encoder": 10}
    (tmp_path / "empty").mkdir()
    assert codes(hub.missing(tmp_path / "empty")) == ["no-parts"]


def test_a_damaged_header_counts_nothing(tmp_path: Path) -> None:
    folder = pipeline(tmp_path / "model")
    for number, data in enumerate((b"", b"\xff" * 64, (5).to_bytes(8, "little") + b"[1,2]")):
        (folder / "vae" / f"odd-{number}.safetensors").write_bytes(data)
    assert parameters(folder)["vae"] == 10


def test_the_cache_is_where_the_variables_say(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hub.cache_folder() == cache and hub.snapshot(MODEL) is None
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "other"))
    assert hub.cache_folder() == tmp_path / "other"
    monkeypatch.delenv("HF_HUB_CACHE"), monkeypatch.delenv("HF_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert hub.cache_folder() == tmp_path / "xdg" / "huggingface" / "hub"


def test_the_library_agrees_where_the_cache_is(cache: Path) -> None:
    snapshot = into_cache(cache, pipeline(cache.parent / "made"))
    script = (
        "import huggingface_hub\n"
        f"print(huggingface_hub.try_to_load_from_cache('{MODEL}', 'unet/config.json'))"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == str(snapshot / "unet" / "config.json")
    assert hub.snapshot(MODEL) == snapshot


def test_a_link_to_nothing_is_not_complete(cache: Path, tmp_path: Path) -> None:
    """A download that was broken off leaves links whose files never came."""
    snapshot = into_cache(cache, pipeline(tmp_path / "made"))
    assert hub.missing(snapshot) == []
    (snapshot / "vae" / "diffusion_pytorch_model.safetensors").resolve().unlink()
    assert hub.missing(snapshot) == ["vae: no diffusion_pytorch_model.safetensors"]


# -- what is asked for ----------------------------------------------------------------------------------


def test_settings_name_what_they_load(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    assert hub.needed(compose("train", ["model=tiny"]), runs) == []
    full = hub.needed(compose("train", ["model=sd15"]), runs)
    assert [(one.setting, one.parts) for one in full] == [
        ("model.source", ("unet", "text_encoder", "tokenizer", "vae"))
    ]
    folder = pipeline(tmp_path / "mine")
    other = hub.needed(compose("train", ["model=sd15", f"model.autoencoder={folder}"]), runs)
    assert [(one.setting, "vae" in one.parts) for one in other] == [
        ("model.source", False),
        ("model.autoencoder", True),
    ]
    codec = hub.needed(compose("train", ["model=sd15", "method=autoencoder"]), runs)
    assert [one.parts for one in codec] == [("vae",)]
    with refuses("model.source=./nowhere", kind=NotFound):
        hub.wanted(["model=sd15", "model.source=./nowhere"], runs)
    assert [one.name for one in hub.wanted(["a/b", "model=tiny"], runs)] == ["a/b"]
    assert hub.wanted(["train"], runs) == []


def clip_folder(folder: Path) -> Path:
    """A folder like that of a CLIPModel."""
    write_json(folder / "config.json", {"model_type": "clip", "text_config": {}, "vision_config": {}})
    write_json(folder / "preprocessor_config.json", {})
    safetensors(folder / "model.safetensors", {"text_model.a": [3], "vision_model.a": [2, 2]})
    return folder


def test_the_clip_is_one_of_the_models_that_a_run_stands_on(cache: Path, tmp_path: Path) -> None:
    words = ["model=sd15", "method=aesthetic_gradients", "model.clip=someone/clip"]
    found = {one.setting: one for one in hub.wanted(words, tmp_path)}
    assert set(found) == {"model.source", "model.clip"}
    assert (found["model.clip"].name, found["model.clip"].parts) == ("someone/clip", ("clip",))
    snapshot = into_cache(cache, clip_folder(tmp_path / "clip"), "someone/clip")
    assert hub.missing(snapshot, ("clip",)) == [] == hub.missing(snapshot)
    assert parameters(snapshot) == {"clip": 7}
    # A pipeline holds the text tower alone; and a download may have been broken off.
    assert hub.missing(pipeline(tmp_path / "whole"), ("clip",)) != []
    (snapshot / "model.safetensors").resolve().unlink()
    assert hub.missing(snapshot, ("clip",)) == ["clip: no model.safetensors"]


def test_every_model_that_settings_can_name_is_asked_for(tmp_path: Path) -> None:
    named = [f"model.{key}=someone/{key}" for key in MODEL_KEYS]
    asked = hub.wanted(["model=sd15", *named], tmp_path)
    assert {(one.setting, one.name) for one in asked} == {tuple(text.split("=")) for text in named}
    # Whatever holds a folder, a run or a hub id stands in the one list that everything else goes by.
    assert {name for name, kind in get_type_hints(ModelConfig).items() if kind == Text} == set(MODEL_KEYS)


def test_only_what_birdsd_loads_is_fetched() -> None:
    """Of the files that Stable Diffusion's repository holds: no pickles, no halves, no whole-model files."""
    wanted = [
        "model_index.json", "vae/config.json", "vae/diffusion_pytorch_model.safetensors", "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors", "text_encoder/config.json",
        "text_encoder/model.safetensors", "tokenizer/vocab.json", "tokenizer/merges.txt",
        "tokenizer/special_tokens_map.json", "scheduler/scheduler_config.json",
        "unet/diffusion_pytorch_model.safetensors.index.json",
        # Of a CLIP's.
        "config.json", "model.safetensors", "model-00001-of-00002.safetensors", "preprocessor_config.json",
        "model.safetensors.index.json",
    ]  # fmt: skip
    unwanted = [
        "v1-5-pruned.safetensors", "v1-5-pruned-emaonly.ckpt", "vae/diffusion_pytorch_model.bin",
        "vae/diffusion_pytorch_model.fp16.safetensors", "unet/diffusion_pytorch_model.non_ema.safetensors",
        "text_encoder/model.fp16.safetensors", "safety_checker/model.safetensors", "unet/model.onnx",
        "text_encoder/pytorch_model.bin", "README.md", "vae_decoder/model.onnx", "unet/flax_model.msgpack",
        "pytorch_model.bin", "flax_model.msgpack", "tf_model.h5", "model.fp16.safetensors",
    ]  # fmt: skip

    def is_fetched(name: str) -> bool:
        if any(fnmatch(name, pattern) for pattern in hub.IGNORED):
            return False
        return any(fnmatch(name, pattern) for pattern in hub.PATTERNS)

    assert [name for name in wanted if not is_fetched(name)] == []
    assert [name for name in unwanted if is_fetched(name)] == []


# -- offline --------------------------------------------------------------------------------------------


def test_offline_and_not_there(cache: Path) -> None:
    done = said([MODEL], HF_HUB_OFFLINE="1")
    assert done.returncode == 1
    assert MODEL in done.stderr and str(cache) in done.stderr
    assert "HF_HUB_OFFLINE is set" in done.stderr and "copy" in done.stderr
    assert "Traceback" not in done.stderr


def test_offline_and_there(cache: Path, tmp_path: Path) -> None:
    snapshot = into_cache(cache, pipeline(tmp_path / "made"))
    done = said(["model=sd15", f"model.source={MODEL}"], HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [(one["kind"], one["folder"]) for one in told["models"]] == [("hub", str(snapshot))]
    assert str(cache) in told["text"] and not told["torch"]


def test_a_word_that_is_no_model(cache: Path) -> None:
    with refuses("'nonsense'", "someone/model", kind=BadValue):
        hub.cache_models(["nonsense"])


@pytest.mark.slow
def test_what_counts_as_complete_is_loaded_offline(cache: Path, tmp_path: Path) -> None:
    """A tiny UNet that lies in the cache is what `model.source=someone/bird` gives without internet."""
    script = (
        "import sys\nfrom birdsd.diffusion.networks import models\n"
        "arguments = dict(block_out_channels=[8, 16], layers_per_block=1, norm_num_groups=4,\n"
        "    attention_head_dim=2, down_block_types=['DownBlock2D', 'CrossAttnDownBlock2D'])\n"
        "unet = models.build_unet(arguments, latent_channels=4, sample_size=(8, 8), context_width=8)\n"
        "unet.save_pretrained(sys.argv[1] + '/unet')\n"
    )
    made = pipeline(tmp_path / "made")
    subprocess.run([sys.executable, "-c", script, str(made)], check=True, capture_output=True)
    snapshot = into_cache(cache, made)
    assert hub.missing(snapshot, ("unet",)) == []
    load = (
        "from birdsd.diffusion.networks import models\n"
        f"print(sum(p.numel() for p in models.load_unet('{MODEL}').parameters()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", load], capture_output=True, text=True, check=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert int(done.stdout) == parameters(snapshot)["unet"]
