"""Latents and text states on disk: training does without the networks that made them, and learns the same."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from birdsd.cli import main
from birdsd.diffusion.learning import embedding_cache
from birdsd.diffusion.learning.denoising import DenoisingMethod
from birdsd.diffusion.methods import make_method
from birdsd.diffusion.networks import models
from birdsd.errors import BadValue, Damaged
from birdsd.schema import CacheConfig
from birdsd.shards.cache import FOLDER
from birdsd.shards.index import ShardIndex
from birdsd.shards.storage.bytes import ShardBytes
from birdsd.shards.storage.writer import ShardWriter
from birdsd.training.records import Ledger, read_metrics
from tests.support.errors import refuses
from tests.support.taught import configured, exported, trained
from tests.support.tiny import make_shards
from tests.support.toy import fork_ranks, losses

LOADERS = ("load_vae", "load_text_encoder")
# Text encoders that stay as they are, and one through which gradients flow.
FROZEN = ("full-unet", "lora-attention", "db-lora", "db-unet")


def cached(way: str, shards: Path, source: Path, tmp_path: Path, part: str = "0/1") -> dict:
    """What `birdsd run cache` says."""
    from birdsd.jobs.cache import run

    config = configured(way, source)
    config.data.shards, config.runs = str(shards), str(tmp_path / "runs")
    return run(CacheConfig(**{**vars(config), "part": part})).facts


def files(folder: Path) -> dict[str, bytes]:
    """What is in the cache, but for when it was written."""
    held = {}
    for path in sorted(folder.rglob("*.*")):
        data = path.read_bytes()
        if path.name.endswith("index.json"):
            data = json.dumps({k: v for k, v in json.loads(data).items() if k != "mtime_ns"}).encode()
        held[str(path.relative_to(folder))] = data
    return held


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return make_shards(tmp_path / "shards")


@pytest.mark.parametrize("way", [*FROZEN, "lora", "ti-unseen"])
def test_training_does_without_the_networks_and_learns_the_same(
    way: str, shards: Path, pipeline_folder: Path, tmp_path: Path, monkeypatch
) -> None:
    trained(way, shards, pipeline_folder, tmp_path / "without", cache_latents=False)
    assert not (shards / FOLDER).exists()
    facts = cached(way, shards, pipeline_folder, tmp_path)
    assert facts["finished"] and facts["latents_made"] == 16 and facts["text_learns"] == (way not in FROZEN)
    # Two wordings of two species, no text, and what the class pictures show; DreamBooth's words alone differ.
    assert facts["texts_made"] == ((6 if way.startswith("db") else 5) if way in FROZEN else 0)

    # Full fine-tuning gives a whole pipeline away: then, and only then, does it look for the others.
    whole_export, early = way in ("full-unet", "db-unet"), []
    for name in LOADERS if way in FROZEN else LOADERS[:1]:
        load = getattr(models, name)

        def watched(source: str, name: str = name, load=load):
            done = [line["position"] for line in read_metrics(tmp_path / "run")]
            if not (whole_export and 24 in done):
                early.append(name)
                raise AssertionError(f"{name} was called")
            return load(source)

        monkeypatch.setattr(models, name, watched)
    trained(way, shards, pipeline_folder, tmp_path / "run")
    assert not early
    ours, theirs = losses(tmp_path / "run"), losses(tmp_path / "without")
    assert list(ours) == list(theirs) == list(range(4, 25, 4))
    # A batch of eight pictures or of two: the last bit of float32, and so now and then of float16.
    np.testing.assert_allclose(list(ours.values()), list(theirs.values()), rtol=1e-4)
    left, right = exported(tmp_path / "run"), exported(tmp_path / "without")
    assert left.keys() == right.keys() and left
    assert max((left[name] - right[name]).abs().max().item() for name in left) < 2e-3


def test_the_same_run_whether_the_cache_was_there_or_is_made_by_the_run(
    shards: Path, pipeline_folder: Path, tmp_path: Path
) -> None:
    trained("db-lora", shards, pipeline_folder, tmp_path / "first")
    before = files(shards / FOLDER)
    facts = cached("db-lora", shards, pipeline_folder, tmp_path)
    assert facts["nothing_to_do"] and facts["finished"] and files(shards / FOLDER) == before
    trained("db-lora", shards, pipeline_folder, tmp_path / "second")
    assert losses(tmp_path / "first") == losses(tmp_path / "second")


def test_parts_make_what_one_task_makes(shards: Path, pipeline_folder: Path, tmp_path: Path) -> None:
    alone = shutil.copytree(shards, tmp_path / "alone")
    cached("db-lora", alone, pipeline_folder, tmp_path)
    told = [cached("db-lora", shards, pipeline_folder, tmp_path, f"{k}/3") for k in (2, 0, 1)]
    assert [facts["finished"] for facts in told] == [False, False, True]
    assert sum(facts["latents_made"] for facts in told) == 16 and told[-1]["latents"] == 16
    assert sum(facts["texts_made"] for facts in told) == 6 and told[-1]["texts"] == 6
    ours, theirs = files(shards), files(alone)
    # Texts lie in other pieces; latents, class pictures and their latents are the same to the byte.
    assert {k: v for k, v in ours.items() if "text-" not in k} == {
        k: v for k, v in theirs.items() if "text-" not in k
    }
    index = ShardIndex.open(shards)
    methods = [
        make_method(configured("db-lora", pipeline_folder), one) for one in (index, ShardIndex.open(alone))
    ]
    parts = [one.build(torch.device("cpu"), torch.float32) for one in methods]
    ids = methods[0].make_example(parts[0], _sample(index), 5)["input_ids"][None]
    assert torch.equal(*(one.caches.texts(held, ids) for one, held in zip(methods, parts, strict=True)))
    assert not parts[0].frozen.loaded  # it was read


def _sample(index: ShardIndex, number: int = 3):
    from birdsd.shards.reader import ShardReader

    return ShardReader(index, "train").read(number)


def test_killed_in_the_middle_the_next_call_makes_the_rest(
    shards: Path, pipeline_folder: Path, tmp_path: Path, monkeypatch
) -> None:
    encode, calls = embedding_cache.Caches.encode_moments, []

    def dies(self, parts, pixels):
        calls.append(len(pixels))
        if len(calls) == 3:  # training has 12 pictures, so this is the first of validation
            raise KeyboardInterrupt
        return encode(self, parts, pixels)

    monkeypatch.setattr(embedding_cache, "ENCODED_PIXELS", 6 * 32 * 64)
    monkeypatch.setattr(embedding_cache.Caches, "encode_moments", dies)
    with pytest.raises(KeyboardInterrupt):
        cached("lora", shards, pipeline_folder, tmp_path)
    monkeypatch.setattr(embedding_cache.Caches, "encode_moments", encode)
    facts = cached("lora", shards, pipeline_folder, tmp_path)
    assert facts["latents_made"] == 4 and facts["latents"] == 16 and facts["finished"]


def test_a_picture_that_cannot_be_decoded_is_met_as_ever(
    shards: Path, pipeline_folder: Path, tmp_path: Path
) -> None:
    index = ShardIndex.open(shards)
    shard = index.shards("train")[0]
    offset = int(index.table(shard).parts["npy"].offset[4])
    with open(index.path(shard), "r+b") as stream:
        stream.seek(offset)
        stream.write(b"no array")
    trained("lora-attention", shards, pipeline_folder, tmp_path / "run")
    assert set(Ledger(tmp_path / "run").bad_samples()) == {4}


def test_another_autoencoder_or_text_encoder_has_a_cache_of_its_own(
    shards: Path, pipeline_folder: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(pipeline_folder, tmp_path / "other")
    cached("full-unet", shards, pipeline_folder, tmp_path)
    assert cached("full-unet", shards, other, tmp_path)["nothing_to_do"]  # the same bytes, wherever they lie
    text = models.load_text_encoder(str(other))
    with torch.no_grad():
        text.final_layer_norm.bias.add_(1)
    text.save_pretrained(other / "text_encoder")
    facts = cached("full-unet", shards, other, tmp_path)
    assert (facts["latents_made"], facts["texts_made"]) == (0, 5)
    told = json.loads((other / "vae" / "config.json").read_text())
    (other / "vae" / "config.json").write_text(json.dumps({**told, "scaling_factor": 2.0}))
    facts = cached("full-unet", shards, other, tmp_path)
    assert (facts["latents_made"], facts["texts_made"]) == (16, 0)


def test_more_captions_are_added_and_only_they(shards: Path, pipeline_folder: Path, tmp_path: Path) -> None:
    cached("full-unet", shards, pipeline_folder, tmp_path)
    facts = cached("db-lora", shards, pipeline_folder, tmp_path)  # other words for the species
    assert (facts["latents_made"], facts["texts_made"], facts["class_pictures_made"]) == (0, 5, 4)


def test_the_folder_elsewhere(shards: Path, pipeline_folder: Path, tmp_path: Path) -> None:
    trained("full-unet", shards, pipeline_folder, tmp_path / "run", cache_folder=str(tmp_path / "kept"))
    assert not (shards / FOLDER).exists() and len(list((tmp_path / "kept").glob("*/*/*.tar"))) == 3


def test_a_text_encoder_beyond_float16_is_named(shards: Path, pipeline_folder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(pipeline_folder, tmp_path / "other")
    text = models.load_text_encoder(str(other))
    with torch.no_grad():
        text.final_layer_norm.weight.mul_(1e6)
    text.save_pretrained(other / "text_encoder")
    with refuses("float16", kind=BadValue):
        cached("full-unet", shards, other, tmp_path)


def test_a_hub_id_is_known_by_its_revision(pipeline_folder: Path, tmp_path: Path, monkeypatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    place = tmp_path / "models--someone--birds"
    keys = []
    for revision in ("a" * 40, "b" * 40):
        shutil.copytree(pipeline_folder, place / "snapshots" / revision)
        (place / "refs").mkdir(exist_ok=True)
        (place / "refs" / "main").write_text(revision)
        keys.append(models.part_key("someone/birds", "vae"))
        assert models.vae_config("someone/birds").latent_channels == 4
    assert keys[0] != keys[1] and models.part_key("someone/birds", "vae") == keys[1]
    with refuses("someone/other", kind=Damaged):
        models.part_key("someone/other", "vae")


def test_from_the_command_line(
    shards: Path, pipeline_folder: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = [f"data.shards={shards}", "model.init=pretrained", f"model.source={pipeline_folder}"]
    assert main.main(["run", "cache", *asked, "part=0/2"]) == 0
    said = capsys.readouterr().out
    assert "part 0/2" in said and " 4 latents" in said
    assert main.main(["run", "cache", *asked, "part=1/2", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["finished"] and facts["bytes"] > 0 and not list(tmp_path.glob("runs"))
    assert main.main(["run", "cache", *asked]) == 0
    *_, last = capsys.readouterr().out.splitlines()
    assert "autoencoder" in last and "text encoder" in last, "what training is spared"
    assert main.main(["run", "cache", *asked, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["finished"] and facts["nothing_to_do"] and not facts["text_learns"]
    assert main.main(["run", "cache", *asked, "method=autoencoder", "--json"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == "unsupported" and "method=autoencoder" in error["problem"]


# -- what goes wrong ------------------------------------------------------------------------------------


def pictures_at(shards: Path, number: int) -> int:
    """Where the picture of a training sample begins in its tar."""
    index = ShardIndex.open(shards)
    return int(index.table(index.shards("train")[0]).parts["npy"].offset[number])


def test_a_picture_that_was_unreadable_for_a_while_is_named_and_ends_nothing(
    shards: Path, pipeline_folder: Path, tmp_path: Path
) -> None:
    tar, offset = shards / "train-000000.tar", pictures_at(shards, 4)
    whole, time_ns = tar.read_bytes(), tar.stat().st_mtime_ns

    def write(data: bytes) -> None:
        tar.write_bytes(data)
        os.utime(tar, ns=(time_ns, time_ns))  # the same shard, by all that its index says

    write(whole[:offset] + b"no array" + whole[offset + 8 :])
    cached("lora", shards, pipeline_folder, tmp_path)
    write(whole)
    trained("lora", shards, pipeline_folder, tmp_path / "run")
    assert set(Ledger(tmp_path / "run").bad_samples()) == {4}


def test_a_file_system_that_fails_is_not_cached_as_a_bad_picture(
    shards: Path, pipeline_folder: Path, tmp_path: Path, monkeypatch
) -> None:
    read = ShardBytes.read

    def fails(self, first: int, last: int):
        if first > 10_000:
            raise OSError(5, "Input/output error")
        return read(self, first, last)

    monkeypatch.setattr(ShardBytes, "read", fails)
    with refuses(("train0003", "train-000000.tar", "Errno 5"), kind=Damaged):
        cached("lora", shards, pipeline_folder, tmp_path)
    monkeypatch.setattr(ShardBytes, "read", read)
    assert cached("lora", shards, pipeline_folder, tmp_path)["latents_made"] == 16


def test_samples_without_captions_are_samples(shards: Path, pipeline_folder: Path, tmp_path: Path) -> None:
    images = [_sample(ShardIndex.open(shards), number).image for number in range(12)]
    with ShardWriter(shards / "train-000000.tar") as writer:
        for number, image in enumerate(images):
            facts = {"json": {"captions": ["a bird"], "species": []}} if number else {}
            writer.write(f"{number:04d}", {"npy": image, **facts})
    trained("lora", shards, pipeline_folder, tmp_path / "run")
    assert not Ledger(tmp_path / "run").bad_samples()


def test_captions_that_become_the_same_tokens_are_encoded_once(
    shards: Path, pipeline_folder: Path, tmp_path: Path
) -> None:
    """Two long captions that differ only behind the 16 tokens that the text encoder sees."""
    long = " ".join(["American Robin singing"] * 12)
    images = [_sample(ShardIndex.open(shards), number).image for number in range(12)]
    with ShardWriter(shards / "train-000000.tar") as writer:
        for number, image in enumerate(images):
            captions = [f"{long} at dawn", f"{long} at dusk"] if number < 4 else ["a robin"]
            facts = {"captions": captions, "species": ["American Robin"]}
            writer.write(f"{number:04d}", {"npy": image, "json": facts})
    facts = cached("full-unet", shards, pipeline_folder, tmp_path)
    # No text, "a robin", the long one, and the four of validation.
    assert facts["finished"] and facts["texts_made"] == facts["texts"] == 7
    trained("full-unet", shards, pipeline_folder, tmp_path / "run")
    assert losses(tmp_path / "run")


def test_a_picture_that_was_replaced_is_encoded_again(
    shards: Path, pipeline_folder: Path, tmp_path: Path
) -> None:
    trained("db-lora", shards, pipeline_folder, tmp_path / "run")
    method = make_method(configured("db-lora", pipeline_folder), ShardIndex.open(shards))
    parts = method.build(torch.device("cpu"), torch.float32)
    before = method._moments_kept(parts, 0)
    assert not parts.frozen.loaded
    Image.new("RGB", (64, 32), (200, 10, 10)).save(method.pictures.path(0))
    after = method._moments_kept(parts, 0)
    assert parts.frozen.loaded and (before - after).abs().max() > 0.1


def test_shards_of_others_are_told_apart_by_time_where_nobody_summed_them(
    shards: Path, pipeline_folder: Path, tmp_path: Path
) -> None:
    offset = pictures_at(shards, 4)

    def forgotten() -> None:  # a foreign set: only headers are looked at
        for path in shards.glob("*.index.json"):
            path.unlink()

    forgotten()
    cached("lora", shards, pipeline_folder, tmp_path)
    assert cached("lora", shards, pipeline_folder, tmp_path)["latents_made"] == 0
    with open(shards / "train-000000.tar", "r+b") as stream:
        stream.seek(offset + 200)
        stream.write(bytes(500))
    os.utime(shards / "train-000000.tar", ns=(1, 1))
    forgotten()
    assert cached("lora", shards, pipeline_folder, tmp_path)["latents_made"] == 12


def test_ranks_find_what_the_others_made_and_load_nothing(
    shards: Path, pipeline_folder: Path, tmp_path: Path
) -> None:
    def work(rank: int) -> None:
        build = DenoisingMethod.build

        def built(self, *arguments):
            for name in LOADERS:
                setattr(models, name, lambda source, name=name: pytest.fail(f"{name} in the steps"))
            return build(self, *arguments)

        DenoisingMethod.build = built
        trained("lora-attention", shards, pipeline_folder, tmp_path / "run")

    log = tmp_path / "log.txt"
    assert fork_ranks(2, work, log) == [0, 0], log.read_text()[-3000:]


def test_ranks_that_do_not_see_each_others_cache_say_so(
    shards: Path, pipeline_folder: Path, tmp_path: Path
) -> None:
    def work(rank: int) -> None:
        place = str(tmp_path / f"node{rank}")
        trained("lora-attention", shards, pipeline_folder, tmp_path / "run", cache_folder=place)

    assert fork_ranks(2, work, tmp_path / "log.txt") == [1, 1]
    said = (tmp_path / "log.txt").read_text()
    assert "NotFound" in said and "machine.cache_folder" in said and "machine.cache_latents=false" in said


def test_what_is_missing_is_shared_evenly(shards: Path, pipeline_folder: Path) -> None:
    """Whatever was there before: a rank with nothing to do would wait for the others for hours."""
    method = make_method(configured("lora", pipeline_folder), ShardIndex.open(shards))
    asked: list[list[int]] = []

    def share(numbers) -> list[int]:
        asked.append(list(numbers))
        return asked[-1]

    cpu = torch.device("cpu")
    method.fill_cache(cpu, torch.float32, ["train"], share, lambda: None, list)
    asked.clear()
    method.fill_cache(cpu, torch.float32, ["train", "validation"], share, lambda: None, list)
    assert [1] in asked  # of two shards the second is missing
