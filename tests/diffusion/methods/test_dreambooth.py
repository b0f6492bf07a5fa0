"""DreamBooth: rare words, the two halves of the loss, and class pictures that are made once."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from birdsd.diffusion.learning.class_images import TOGETHER, ClassPictures, ClassRequest
from birdsd.diffusion.methods import make_method
from birdsd.diffusion.methods.dreambooth import PriorLearner, rare_words
from birdsd.diffusion.methods.full import FullMethod
from birdsd.diffusion.methods.lora import LoraMethod
from birdsd.diffusion.networks import models
from birdsd.errors import BadValue, Damaged, Mismatch, NothingLeft, NotSet, UnknownName
from birdsd.shards.index import ShardIndex
from birdsd.shards.reader import ShardReader
from tests.support.errors import refuses
from tests.support.tiny import CODEC, SPECIES, batch, make_shards, train, train_config

CPU = torch.device("cpu")
REQUEST = ClassRequest("base", ("a bird",), 3, 2, 3.0, 4, 6)


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> ShardIndex:
    """Shards that class pictures may be put beside."""
    return ShardIndex.open(make_shards(tmp_path_factory.mktemp("dreambooth")))


def made(index, source, **changes):
    settings = {"class_samples": 3, "class_steps": 2, "init": "pretrained", "source": source}
    if changes.get("base_method", "lora") == "lora":
        settings["rank"] = 2
    method = make_method(train_config("dreambooth", **{**settings, **changes}), index)
    parts = method.build(CPU, torch.float32)
    return method, parts, method.setup(parts, list, lambda: None)


# -- class pictures ---------------------------------------------------------------------------------


def drawn(numbers, tick):
    """Pictures that show their number and the batch they were made in."""
    tick()
    return np.stack([np.full((4, 6, 3), 10 * n + len(numbers), np.uint8) for n in numbers])


class Killed(BaseException):
    pass


def test_pictures_are_made_once_and_without_loss(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), dtype=np.uint8)
    pictures = ClassPictures(tmp_path, REQUEST, 5)
    calls = []

    def sampler(numbers, tick):
        calls.append(list(numbers))
        return noise[numbers]

    assert pictures.make(sampler) == 5 and pictures.make(sampler) == 0
    assert calls == [[0, 1], [2, 3], [4]]
    for number in range(5):
        assert np.array_equal(pictures.read(number), noise[number].transpose(2, 0, 1))
    assert sorted(path.suffix for path in pictures.folder.iterdir()) == [".json", *[".png"] * 5]
    facts = json.loads((pictures.folder / "facts.json").read_text())
    assert facts["prompts"] == ["a bird"] and facts["base"] == "base" and facts["steps"] == 2
    assert ClassPictures(tmp_path, REQUEST, 9).make(drawn) == 4  # more of the same: the first stay


def test_killed_and_taken_up(tmp_path):
    """After a kill in any batch, and in the middle of a write, the set is the same to the byte."""
    whole = ClassPictures(tmp_path / "whole", REQUEST, 7)
    whole.make(drawn)
    killed = ClassPictures(tmp_path / "killed", REQUEST, 7)
    for survives in (0, 1, 2):
        left = [survives]

        def sampler(numbers, tick, left=left):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return drawn(numbers, tick)

        with pytest.raises(Killed):
            killed.make(sampler)
    (killed.folder / ".00006.png.nowhere-1.partial").write_bytes(b"half")
    killed.make(drawn)
    for number in range(7):
        assert killed.path(number).read_bytes() == whole.path(number).read_bytes()


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_the_work(tmp_path, world):
    alone, shared = (ClassPictures(tmp_path / name, REQUEST, 9) for name in ("alone", "shared"))
    alone.make(drawn)
    counts = [
        shared.make(drawn, lambda numbers, rank=rank: list(numbers[rank::world])) for rank in range(world)
    ]
    assert sum(counts) == 9 and all(counts)
    for number in range(9):
        assert shared.path(number).read_bytes() == alone.path(number).read_bytes()


def test_damaged_pictures_are_made_anew(tmp_path):
    pictures = ClassPictures(tmp_path, REQUEST, 8)
    pictures.make(drawn)
    whole = [pictures.path(number).read_bytes() for number in range(8)]
    pictures.path(0).unlink()
    pictures.path(2).write_bytes(whole[2][:-20])
    flipped = bytearray(whole[3])
    flipped[whole[3].index(b"IDAT") + 8] ^= 1
    pictures.path(3).write_bytes(bytes(flipped))
    pictures.path(4).write_bytes(b"")
    from PIL import Image

    Image.new("RGB", (5, 5)).save(pictures.path(5))
    Image.new("L", (6, 4)).save(pictures.path(7))
    (pictures.folder / "facts.json").write_text("{")
    for number, word in ((0, "missing"), (2, "damaged"), (3, "damaged"), (4, "damaged"), (5, "[5, 5, 3]")):
        with refuses((f"0000{number}.png", word), kind=Damaged):
            pictures.read(number)
    assert pictures.make(drawn) == 6
    assert [pictures.path(number).read_bytes() for number in range(8)] == whole
    assert json.loads((pictures.folder / "facts.json").read_text())["seed"] == 3


def test_the_watchdog_hears_of_every_step(own, pipeline_folder):
    method, parts, _ = made(own, pipeline_folder, class_guidance=2.0)
    shutil.rmtree(method.pictures.folder)
    heard = []
    method.setup(parts, list, lambda: heard.append(1))
    assert len(heard) >= 2 * method.config.method.class_steps


@pytest.mark.parametrize(
    "change",
    [{"base": "other"}, {"prompts": ("a wren",)}, {"seed": 4}, {"steps": 3}, {"guidance": 1.0}, {"width": 8}],
)
def test_another_request_has_another_folder(tmp_path, change):
    other = ClassRequest(**{**REQUEST.__dict__, **change})
    assert ClassPictures(tmp_path, other, 2).folder != ClassPictures(tmp_path, REQUEST, 2).folder


def test_the_base_makes_them_as_it_would_generate(own, pipeline_folder):
    """Made by the model before training, in the pictures' true size; the same as its own pipeline's."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    from birdsd.diffusion.generation import sampling

    method, _, lines = made(own, pipeline_folder)
    assert "'a bird'" in lines[-1]
    pipeline = StableDiffusionPipeline.from_pretrained(str(pipeline_folder), safety_checker=None)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        ["a bird"] * TOGETHER,
        num_inference_steps=2,
        guidance_scale=3.0,
        latents=sampling.initial_noise(3, range(TOGETHER), method.latent_shape),
        output_type="np",
    ).images
    ours = np.stack([method.pictures.read(n).transpose(1, 2, 0) for n in range(TOGETHER)])
    assert np.abs(theirs * 255 - ours).max() <= 0.51


# -- the loss ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["lora", "full"])
@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_the_loss_is_the_papers(own, pipeline_folder, form, weight):
    """Two passes and a sum: E ||eps - eps(x, c)||^2 + lambda E ||eps' - eps(x_class, c_class)||^2."""
    method, parts, _ = made(
        own, pipeline_folder, base_method=form, prior_weight=weight, min_snr_gamma=5.0, caption_dropout=0.0
    )
    data = batch(method, parts, own, 0, 4)
    unet, abar = parts.learner.unet, method.denoising.alphas_cumprod().float()

    if "context" not in data:
        data["context"] = parts.learner.text_encoder(data["input_ids"])[0].detach()

    def half(rows):
        x, e, t, c = (data[key][rows] for key in ("latents", "noise", "timesteps", "context"))
        a = abar[t][:, None, None, None]
        snr = abar[t] / (1 - abar[t])
        error = (unet(a.sqrt() * x + (1 - a).sqrt() * e, t, encoder_hidden_states=c).sample - e).square()
        return (error.mean((1, 2, 3)) * snr.clamp(max=5) / snr).mean()

    with torch.no_grad():
        expected = half(slice(0, 4)) + weight * half(slice(4, 8))
        losses = parts.learner(data)
    assert losses.shape == (4,)
    assert losses.mean().item() == pytest.approx(expected.item(), rel=1e-5)
    assert not torch.equal(data["noise"][:4], data["noise"][4:])


def test_each_half_has_draws_of_its_own(own, pipeline_folder):
    method, parts, _ = made(own, pipeline_folder)
    sample = ShardReader(own, "train").read(0)
    first, again, other = (method.make_example(parts, sample, position) for position in (7, 7, 8))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["class_noise"], first["noise"])
    assert not torch.equal(first["class_noise"], other["class_noise"])
    many = [method.make_example(parts, sample, position) for position in range(200)]
    assert {int(example["class_number"]) for example in many} == {0, 1, 2}
    apart = [int(e["timesteps"]) != int(e["class_timesteps"]) for e in many]
    assert np.mean(apart) > 0.9


def test_the_sample_half_is_that_of_the_method_underneath(own, pipeline_folder):
    """Validation sees the samples alone, under the noise that every other method draws."""
    method, parts, _ = made(own, pipeline_folder, word="class")
    plain = make_method(train_config("lora", init="pretrained", source=pipeline_folder, rank=2), own)
    plain_parts = plain.build(CPU, torch.float32)
    ours = batch(method, parts, own, 0, purpose="validation")
    theirs = batch(plain, plain_parts, own, 0, purpose="validation")
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    with torch.no_grad():
        assert torch.equal(parts.learner(ours), plain_parts.learner(theirs))


def test_samples_stand_first_and_their_class_pictures_behind(own, pipeline_folder):
    method, parts, _ = made(own, pipeline_folder, word="class", prior_weight=0.3)
    plain = make_method(train_config("lora", init="pretrained", source=pipeline_folder, rank=2), own)
    ours = batch(method, parts, own, 0, 4)
    theirs = batch(plain, plain.build(CPU, torch.float32), own, 0, 4)
    assert all(torch.equal(ours[key][:4], theirs[key]) for key in theirs) and ours.keys() - theirs == {
        "prior"
    }
    assert torch.equal(ours["prior"], torch.full((4,), 0.3))
    vae, reader = parts.frozen["vae"], ShardReader(own, "train")
    for at in range(4):
        drawn = method.make_example(parts, reader.read(at), at)
        image = torch.from_numpy(method.pictures.read(int(drawn["class_number"])))[None] / 127.5 - 1
        with torch.no_grad():
            spread = vae.encode(image).latent_dist
            context = parts.frozen["text_encoder"](drawn["class_input_ids"][None])[0][0]
        latents = (spread.mean + spread.std * drawn["class_posterior_noise"]) * vae.config.scaling_factor
        torch.testing.assert_close(ours["latents"][4 + at], latents[0], rtol=0, atol=5e-3)
        assert torch.equal(ours["noise"][4 + at], drawn["class_noise"])
        assert ours["timesteps"][4 + at] == drawn["class_timesteps"]
        assert torch.equal(ours["context"][4 + at], context.half().float())  # as it is kept


@pytest.mark.parametrize("off", [{"class_samples": 0}, {"prior_weight": 0.0}])
def test_without_class_pictures_it_is_the_method_underneath(own, pipeline_folder, off):
    method, parts, lines = made(own, pipeline_folder, **off)
    assert lines[-1].code == "no-prior" and not isinstance(parts.learner, PriorLearner)
    assert batch(method, parts, own, 0, 4)["latents"].shape[0] == 4
    assert "class_number" not in method.make_example(parts, ShardReader(own, "train").read(0), 0)


@pytest.mark.parametrize(("form", "kind"), [("lora", LoraMethod), ("full", FullMethod)])
def test_what_learns_is_what_the_method_underneath_says(own, pipeline_folder, form, kind):
    method, parts, _ = made(own, pipeline_folder, base_method=form)
    rank = {"rank": 2} if form == "lora" else {}
    assert isinstance(method, kind) and isinstance(parts.learner, PriorLearner)
    other = make_method(train_config(form, init="pretrained", source=pipeline_folder, **rank), own)
    expected = {n for n, p in other.build(CPU, torch.float32).learner.named_parameters() if p.requires_grad}
    assert {n for n, p in parts.learner.named_parameters() if p.requires_grad} == expected
    frozen = {n: p.detach().clone() for n, p in parts.learner.named_parameters() if not p.requires_grad}
    before = models.weights_key(parts.frozen["vae"])
    losses = train(method, parts, own, steps=3, learning_rate=1e-3)
    assert np.isfinite(losses).all()
    held = dict(parts.learner.named_parameters())
    assert all(torch.equal(held[name], value) for name, value in frozen.items())
    assert models.weights_key(parts.frozen["vae"]) == before


def test_the_text_encoder_may_learn_too(own, pipeline_folder):
    method, parts, _ = made(own, pipeline_folder, targets=["attention", "text_encoder"])
    data = batch(method, parts, own, 0, 4)
    assert data["input_ids"].shape[0] == 8 and "context" not in data
    parts.learner(data).mean().backward()
    reached = [n for n, p in parts.learner.text_encoder.named_parameters() if p.grad is not None]
    assert reached and all("lora" in name for name in reached)


def test_class_pictures_are_encoded_once_and_by_themselves(own, pipeline_folder, monkeypatch):
    method, parts, _ = made(own, pipeline_folder)  # which encodes them, and keeps that on disk
    vae, seen = parts.frozen["vae"], []
    encode = vae.encode
    monkeypatch.setattr(vae, "encode", lambda x: seen.append(len(x)) or encode(x))
    first = batch(method, parts, own, 0, 6)
    assert seen == [6]  # the samples alone: these are not cached here
    method.caches.use_disk = False
    method._moments_of.clear()
    fresh, again = batch(method, parts, own, 0, 6), batch(method, parts, own, 0, 6)
    assert 1 <= seen.count(1) <= 3 and seen.count(6) == 3 == len(seen) - seen.count(1)
    assert all(torch.equal(first[key], fresh[key]) and torch.equal(first[key], again[key]) for key in first)


# -- the words --------------------------------------------------------------------------------------


def test_captions_name_the_rare_words(own, pipeline_folder):
    method, parts, lines = made(own, pipeline_folder)
    words = method.words(parts)
    assert set(words) == set(SPECIES) and all(word.endswith(" bird") for word in words.values())
    robin = words["American Robin"]
    assert method.wording(parts, "an American Robin singing") == f"a {robin} singing"
    assert robin in lines[-2]
    method, parts, _ = made(own, pipeline_folder, word="class")
    assert method.words(parts) == {} and method.wording(parts, "an American Robin") == "an American Robin"


def test_rare_words_mean_nothing_to_a_small_tokenizer(pipeline_folder):
    _, tokenizer = models.load_text(str(pipeline_folder))
    species = [f"Bird {n}" for n in range(40)]
    words = rare_words(tokenizer, species)
    assert words == rare_words(tokenizer, species) and len(set(words)) == 40
    assert words[:2] == rare_words(tokenizer, species[:2])
    vocabulary = tokenizer.get_vocab()
    assert not any(word in vocabulary or f"{word}</w>" in vocabulary for word in words)
    assert words[0] not in rare_words(tokenizer, [words[0].upper()])
    with refuses("9000 species", "method.word=class", kind=Mismatch):
        rare_words(tokenizer, [str(n) for n in range(9000)])


def test_rare_words_of_a_large_tokenizer_are_one_token():
    class Tokenizer:  # CLIP's: bytes, then words from common to rare
        vocab_size = 40_000

        def get_vocab(self):
            rest = {f"w{n}</w>": n for n in range(40_000)}
            return {
                **rest,
                "nfl</w>": 100,
                "xzt</w>": 30_000,
                "sks</w>": 36_000,
                "fck</w>": 39_000,
                "pqz": 38_000,
            }

    words = rare_words(Tokenizer(), ["a", "b", "c"])
    assert words[:2] == ["sks", "xzt"] and words[2] not in ("nfl", "fck", "pqz")
    assert rare_words(Tokenizer(), ["SKS bird"]) == ["xzt"]


@pytest.fixture(scope="module")
def knowing(pipeline_folder, tmp_path_factory):
    """A base that knows other species, one of them by a word that it was taught."""
    folder = tmp_path_factory.mktemp("knowing") / "export"
    shutil.copytree(pipeline_folder, folder)
    told = json.loads((folder / "training.json").read_text())
    _, tokenizer = models.load_text(str(pipeline_folder))
    word = f"{rare_words(tokenizer, SPECIES)[0]} bird"
    told = {**told, "species": ["American Robin", "House Wren", "Osprey"], "words": {"Osprey": word}}
    (folder / "training.json").write_text(json.dumps(told))
    return folder, word


def test_class_pictures_show_what_the_model_knows_by_name(own, knowing):
    folder, word = knowing
    method, parts, lines = made(own, folder)
    assert method.request.prompts == ("a bird", "a House Wren", f"a {word}")
    assert lines[-1].code == "class-pictures" and lines[-1].facts["prompts"] == method.request.prompts
    assert "'a bird'" in lines[-1] and " 2 more " in lines[-1]
    sample, prompts = ShardReader(own, "train").read(0), {}
    method.config.method.caption_dropout = 0.0
    for position in range(60):
        example = method.make_example(parts, sample, position)
        prompts[int(example["class_number"])] = parts.tokenizer.decode(
            example["class_input_ids"], skip_special_tokens=True
        )
    assert {k: v.replace(" ", "") for k, v in prompts.items()} == {
        0: "abird", 1: "ahousewren", 2: f"a{word}".replace(" ", "")
    }  # fmt: skip
    method, _, _ = made(own, folder, class_prompts=["a song"])
    assert method.request.prompts == ("a song",)


def test_words_that_were_taught_before_stay(own, knowing, tmp_path):
    folder, word = knowing
    method, parts, _ = made(own, folder, base_method="full")
    words = method.words(parts)
    assert words["Osprey"] == word and set(words) == {"Osprey", *SPECIES} and len(set(words.values())) == 3
    told = json.loads((method.export(parts, tmp_path / "export") / "training.json").read_text())
    assert told["words"] == words


# -- the export -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("form", "kind"), [("lora", "lora"), ("full", "pipeline")])
def test_the_export_is_that_of_the_method_underneath_with_words(own, pipeline_folder, tmp_path, form, kind):
    method, parts, _ = made(own, pipeline_folder, base_method=form)
    folder = method.export(parts, tmp_path / "export")
    told = json.loads((folder / "training.json").read_text())
    assert told["kind"] == kind and told["words"] == method.words(parts) and told["method"] == "dreambooth"
    assert told["class_prompts"] == ["a bird"] and told["class_samples"] == 3
    name = (
        "pytorch_lora_weights.safetensors" if form == "lora" else "unet/diffusion_pytorch_model.safetensors"
    )
    assert (folder / name).is_file()
    assert CODEC.fingerprint() and (folder / "codec.json").is_file()


# -- what is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "named", "kind"),
    [
        ({"prior_weight": -0.5}, "method.prior_weight=-0.5", BadValue),
        ({"prior_weight": float("nan")}, "prior_weight=nan", BadValue),
        ({"class_samples": -1}, "class_samples=-1", BadValue),
        ({"class_steps": 0}, "steps=0", BadValue),
        ({"class_guidance": -1.0}, "guidance=-1", BadValue),
        ({"word": "rarest"}, "'rarest'", UnknownName),
        ({"class_word": " "}, "method.class_word", NotSet),
        ({"base_method": "lor"}, "'lor'", UnknownName),
        ({"init": "scratch"}, "init=scratch", Mismatch),
        ({"source": ""}, "model.source", NotSet),
    ],
)
def test_what_cannot_be_taught(own, pipeline_folder, changes, named, kind):
    with refuses(named, kind=kind):
        made(own, **{"source": pipeline_folder, **changes})


def test_shards_that_name_no_species(pipeline_folder, tmp_path, monkeypatch):
    from tests.support import tiny

    class Unnamed(tiny.ShardWriter):
        def write(self, key, parts):
            return super().write(key, {**parts, "json": {**parts["json"], "species": []}})

    monkeypatch.setattr(tiny, "ShardWriter", Unnamed)
    with refuses("shards", "DreamBooth", kind=NothingLeft):
        made(ShardIndex.open(make_shards(tmp_path / "shards")), pipeline_folder)
