"""Aesthetic gradients: against the published algorithm written out once more, and as a run."""

from __future__ import annotations

import copy
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from birdsd.diffusion.adapters import write_adapter
from birdsd.diffusion.export import training_set
from birdsd.diffusion.generation import aesthetics, sampling
from birdsd.diffusion.generation.aesthetics import (
    Aesthetic,
    AestheticSettings,
    Personalisation,
    personalise,
    slerp,
)
from birdsd.diffusion.generation.generator import Generator
from birdsd.diffusion.generation.request import Request
from birdsd.diffusion.methods import make_method
from birdsd.diffusion.networks import models
from birdsd.diffusion.networks.clip import build_clip, load_clip
from birdsd.diffusion.networks.tokenizer import token_ids
from birdsd.errors import BadValue, Damaged, Mismatch, NotFound, NothingLeft, UnknownName
from birdsd.files import write_json
from birdsd.shards.index import ShardIndex
from birdsd.shards.reader import ShardReader
from birdsd.shards.storage.writer import ShardWriter
from birdsd.training.work import RunWork
from tests.support.aesthetics import VISION, published
from tests.support.errors import refuses
from tests.support.tiny import CODEC, SPECIES, TEXT, make_shards, train_config
from tests.support.toy import fork_ranks

CPU = torch.device("cpu")
PROMPT = "an American Robin singing"
QUICK = AestheticSettings(steps=4, rate=1e-3)


@pytest.fixture(scope="module")
def text(pipeline_folder):
    return models.load_text(str(pipeline_folder))


@pytest.fixture(scope="module")
def projection(text) -> torch.Tensor:
    return build_clip(*text, VISION, seed=5, projection_dim=24).text_projection.detach()


@pytest.fixture(scope="module")
def embedding() -> torch.Tensor:
    return 7 * torch.randn(1, 24, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def clip_folder(text, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    build_clip(*text, VISION, seed=5, projection_dim=24).save(folder)
    return folder


def original(text, prompt: str) -> torch.Tensor:
    return sampling.encode_texts(*text, [prompt])


# -- the mathematics --------------------------------------------------------------------------------


@pytest.mark.parametrize(("steps", "rate"), [(1, 1e-4), (5, 1e-4), (20, 1e-2)])
def test_it_is_the_published_algorithm(text, projection, embedding, steps, rate):
    settings = AestheticSettings(steps=steps, rate=rate)
    tuned = personalise(*text, projection, embedding, [PROMPT], settings)
    expected = published(*text, projection, embedding, PROMPT, steps, rate)
    assert tuned.shape == (1, 16, 32) and torch.allclose(tuned, expected, atol=1e-6, rtol=0)
    assert (tuned - original(text, PROMPT)).abs().max() > 3 * steps * rate  # far beyond the tolerance


def test_the_prompt_really_comes_nearer(text, projection, embedding):
    work = Personalisation(*text, projection, embedding, AestheticSettings(steps=20, rate=1e-3))
    tuned = work(PROMPT)
    end = token_ids(text[1], [PROMPT])[0].tolist().index(text[1].eos_token_id)
    after = functional.cosine_similarity(tuned[0, end] @ projection.T, embedding[0], dim=0).item()
    before = functional.cosine_similarity(original(text, PROMPT)[0, end] @ projection.T, embedding[0], dim=0)
    assert work.similarities[0] == pytest.approx(before.item(), abs=1e-5)
    assert len(work.similarities) == 20 and all(np.diff([*work.similarities, after]) > 0)
    assert after > before + 0.3


def test_the_encoder_is_left_as_it_was(text, projection, embedding):
    encoder, tokenizer = copy.deepcopy(text[0]), text[1]
    encoder.train().encoder.layers[0].eval()
    encoder.requires_grad_(True).final_layer_norm.requires_grad_(False)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    modes = [module.training for module in encoder.modules()]
    wanted = [parameter.requires_grad for parameter in encoder.parameters()]
    own = projection.clone()
    own.requires_grad_(True)
    personalise(encoder, tokenizer, own, embedding, [PROMPT, ""], AestheticSettings.of("a1111", rate=0.1))
    after = encoder.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert modes == [module.training for module in encoder.modules()]
    assert wanted == [parameter.requires_grad for parameter in encoder.parameters()]
    assert all(parameter.grad is None for parameter in encoder.parameters())
    assert own.grad is None and torch.equal(own, projection)  # the projection is no part of what is tuned


def test_only_the_text_tower_and_only_the_used_rows_are_held(text, projection, embedding, monkeypatch):
    held = []

    class Watched(torch.optim.Adam):
        def __init__(self, params, **options):
            held.extend(params)
            super().__init__(held, **options)

    monkeypatch.setattr(torch.optim, "Adam", Watched)
    personalise(*text, projection, embedding, [PROMPT], QUICK)
    encoder, tokenizer = text
    rows = len(set(token_ids(tokenizer, [PROMPT])[0].tolist()))
    whole = sum(parameter.numel() for parameter in encoder.parameters())
    assert sum(value.numel() for value in held) == whole - (len(tokenizer) - rows) * 32
    own = {parameter.data_ptr() for parameter in encoder.parameters()}
    assert not own & {value.data_ptr() for value in held}


def test_each_prompt_stands_alone_and_equal_ones_are_tuned_once(text, projection, embedding, monkeypatch):
    other = "a Eurasian Wren singing"
    count = []
    tune = Personalisation._tune
    monkeypatch.setattr(Personalisation, "_tune", lambda self, p: (count.append(p), tune(self, p))[1])
    together = personalise(*text, projection, embedding, [PROMPT, other, PROMPT], QUICK)
    assert count == [PROMPT, other]
    for row, prompt in zip(together, (PROMPT, other, PROMPT), strict=True):
        assert torch.equal(row[None], personalise(*text, projection, embedding, [prompt], QUICK))
    # an embedding for each prompt: the same prompt twice is two things then
    both = torch.cat([embedding, -embedding])
    apart = personalise(*text, projection, both, [PROMPT, PROMPT], QUICK)
    assert torch.equal(apart[:1], together[:1]) and not torch.equal(apart[0], apart[1])


def test_it_works_where_gradients_are_switched_off(text, projection, embedding):
    expected = personalise(*text, projection, embedding, [PROMPT], QUICK)
    with torch.no_grad():
        assert torch.equal(personalise(*text, projection, embedding, [PROMPT], QUICK), expected)
    with torch.inference_mode():
        assert torch.equal(personalise(*text, projection, embedding, [PROMPT], QUICK), expected)
    assert not expected.requires_grad


def test_an_fp16_encoder_is_tuned_in_float32(text, projection, embedding):
    half = copy.deepcopy(text[0]).half()
    made = personalise(half, text[1], projection.half(), embedding.half(), [PROMPT], QUICK)
    assert made.dtype == torch.float16 and half.dtype == torch.float16
    expected = published(
        half.float(), text[1], projection.half().float(), embedding.half().float(), PROMPT, 4, 1e-3
    )
    assert torch.allclose(made.float(), expected, atol=2e-3)


def test_new_tokens_take_part(text, projection, embedding):
    """As after textual inversion: the number of a new token is higher than that of the end of the text,
    and stock configurations look for the highest number."""
    encoder, tokenizer = copy.deepcopy(text[0]), copy.deepcopy(text[1])
    tokenizer.add_tokens(["<robin>"])
    encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    table = encoder.get_input_embeddings().weight.data
    prompt = "a <robin> singing"
    assert token_ids(tokenizer, [prompt])[0].max() == len(tokenizer) - 1 > tokenizer.eos_token_id
    encoder.eos_token_id = encoder.config.eos_token_id = 2  # as Stable Diffusion 1.5 has it
    made = []
    for scale in (1.0, -1.0):
        table[-1] = scale * torch.linspace(-0.1, 0.1, 32)
        made.append(personalise(encoder, tokenizer, projection, embedding, [prompt], QUICK))
        expected = published(encoder, tokenizer, projection, embedding, prompt, 4, 1e-3)
        assert torch.allclose(made[-1], expected, atol=1e-6, rtol=0)
    assert not torch.allclose(made[0], made[1], atol=1e-3)


def test_with_a_lora_it_starts_from_the_sum(text, projection, embedding):
    from peft import LoraConfig

    encoder = copy.deepcopy(text[0])
    config = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    torch.manual_seed(0)
    encoder.add_adapter(config)
    merged = copy.deepcopy(text[0])
    for name, layer in merged.named_modules():
        if name.endswith(("q_proj", "v_proj")):
            added = encoder.get_submodule(name)
            layer.weight.data += added.get_delta_weight("default").detach()
    assert not torch.allclose(original((merged, text[1]), PROMPT), original(text, PROMPT), atol=1e-3)
    made = personalise(encoder, text[1], projection, embedding, [PROMPT], QUICK)
    expected = published(merged, text[1], projection, embedding, PROMPT, 4, 1e-3)
    assert torch.allclose(made, expected, atol=1e-5, rtol=0)


# -- as the web UI's extension does it --------------------------------------------------------------


def arc(low, high, share):
    """An arc between vectors along the first axis, in numpy."""
    cosine = (low / np.linalg.norm(low, axis=0) * high / np.linalg.norm(high, axis=0)).sum(0)
    angle = np.arccos(cosine)
    return (np.sin((1 - share) * angle) * low + np.sin(share * angle) * high) / np.sin(angle)


def test_a1111_blends_original_and_tuned(text, projection, embedding):
    settings = AestheticSettings.of("a1111")
    assert (settings.steps, settings.rate, settings.weight, settings.blend) == (5, 1e-4, 0.9, "lerp")
    before = original(text, PROMPT)
    tuned = published(*text, projection, embedding, PROMPT, 5, 1e-4)
    made = personalise(*text, projection, embedding, [PROMPT], settings)
    assert torch.allclose(made, 0.1 * before + 0.9 * tuned, atol=1e-6, rtol=0)
    bent = personalise(
        *text,
        projection,
        embedding,
        [PROMPT],
        AestheticSettings.of("a1111", blend="slerp", rate=0.1, weight=0.3),
    )
    tuned = published(*text, projection, embedding, PROMPT, 5, 0.1)
    expected = arc(before[0].double().numpy(), tuned[0].double().numpy(), 0.3)
    assert np.abs(bent[0].numpy() - expected).max() < 1e-4


def test_an_arc_keeps_its_ends_and_bears_having_no_angle():
    low, high = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert torch.allclose(slerp(low, high, 0.5), torch.full((1, 2), 0.5**0.5))
    assert torch.allclose(slerp(low, high, 1.0), high) and torch.allclose(slerp(low, high, 0.0), low)
    assert torch.allclose(slerp(low, 3 * low, 0.5), 2 * low)
    assert torch.equal(slerp(torch.zeros(1, 2), high, 0.5), high / 2)


@pytest.mark.parametrize("away", [False, True])
def test_an_aesthetic_text_turns_the_embedding(text, projection, embedding, away):
    told = "in loud rain"
    unit = embedding / embedding.norm()
    end = token_ids(text[1], [told])[0].tolist().index(text[1].eos_token_id)
    features = original(text, told)[:, end] @ projection.T
    if away:
        features = (unit - features) / (unit - features).norm()
    turned = torch.from_numpy(arc(unit[0].numpy(), features[0].numpy(), 0.4))[None]
    settings = AestheticSettings(steps=4, rate=1e-3, text=told, text_weight=0.4, text_away=away)
    made = personalise(*text, projection, embedding, [PROMPT], settings)
    expected = published(*text, projection, turned, PROMPT, 4, 1e-3)
    assert torch.allclose(made, expected, atol=1e-4, rtol=0)
    assert not torch.allclose(made, personalise(*text, projection, embedding, [PROMPT], QUICK), atol=1e-3)


def test_the_empty_prompt_is_left_alone_but_for_a1111(text, projection, embedding):
    untouched = personalise(*text, projection, embedding, ["", " "], AestheticSettings(steps=5, rate=0.1))
    assert torch.equal(untouched[:1], original(text, ""))
    tuned = personalise(*text, projection, embedding, [""], AestheticSettings.of("a1111", weight=1.0))
    assert torch.allclose(tuned, published(*text, projection, embedding, "", 5, 1e-4), atol=1e-6, rtol=0)
    off = personalise(*text, projection, embedding, [PROMPT], AestheticSettings(steps=0))
    assert torch.equal(off, original(text, PROMPT))


# -- what is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "named", "kind"),
    [
        ({"steps": -1}, "aesthetic_steps=-1", BadValue),
        ({"rate": float("nan")}, "aesthetic_rate=nan", BadValue),
        ({"weight": 1.5}, "aesthetic_weight=1.5", BadValue),
        ({"text_weight": -0.1}, "aesthetic_text_weight=-0.1", BadValue),
        ({"blend": "slurp"}, "aesthetic_blend 'slurp'", UnknownName),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, named, kind):
    with refuses(named, kind=kind):
        AestheticSettings(**settings)


def test_behaviours_and_their_exceptions():
    assert AestheticSettings.of() == AestheticSettings()
    assert AestheticSettings.of("a1111", weight=None, negative=False, steps=7) == AestheticSettings(
        steps=7, weight=0.9, negative=False
    )
    with refuses("'a111'", "a1111, original", kind=UnknownName):
        AestheticSettings.of("a111")


def test_widths_that_do_not_fit_are_both_named(text, projection, embedding):
    with refuses("23 wide", "24 wide", kind=Mismatch):
        personalise(*text, projection, embedding[:, 1:], [PROMPT], QUICK)
    wide = models.build_text_encoder({**TEXT, "hidden_size": 48}, vocabulary=len(text[1]), max_tokens=16)
    with refuses("32 wide", "48 wide", kind=Mismatch):
        personalise(wide, text[1], projection, embedding, [PROMPT], QUICK)


# -- as a run ---------------------------------------------------------------------------------------


def run_through(config, method, folder, should_stop=lambda: False, **told):
    return RunWork(config, method.index, folder, should_stop, **told).by(method)


def aesthetic_method(index, source, clip):
    config = train_config("aesthetic_gradients", init="pretrained", source=source)
    config.model.clip, config.machine.device = str(clip), "cpu"
    return config, make_method(config, index)


@pytest.fixture(scope="module")
def run_folder(index, pipeline_folder, clip_folder, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("aesthetic-run")
    result = run_through(*aesthetic_method(index, pipeline_folder, clip_folder), folder)
    assert result.finished and (result.position, result.total) == (12, 12)
    return folder


def test_an_embedding_is_the_mean_of_the_features(run_folder, index, clip_folder):
    clip, reader = load_clip(str(clip_folder)), ShardReader(index, "train")
    made = Aesthetic.load(run_folder)
    assert set(made.embeddings) == {*SPECIES, "all"}
    assert torch.equal(made.text_projection, clip.text_projection)
    for name, numbers in ((SPECIES[0], range(0, 12, 2)), (SPECIES[1], range(1, 12, 2)), ("all", range(12))):
        rows = [clip.image_features(torch.from_numpy(reader.read(n).image)[None]) for n in numbers]
        assert torch.allclose(made.embedding(name.upper()), torch.stack(rows).mean(0), atol=1e-5)
    assert not torch.allclose(made.embedding(SPECIES[0]), made.embedding(SPECIES[1]), atol=1e-2)
    told = json.loads((run_folder / "export" / "training.json").read_text())
    assert told["kind"] == "aesthetic" and told["pictures"] == {SPECIES[0]: 6, SPECIES[1]: 6, "all": 12}
    assert told["base"]["identity"] and (run_folder / "export" / "codec.json").is_file()


def test_run_again_it_does_nothing_and_run_anew_it_is_the_same(
    run_folder, index, pipeline_folder, clip_folder, tmp_path
):
    files = {p: p.read_bytes() for p in run_folder.rglob("*") if p.is_file()}
    assert {p.name for p in files} >= {
        "finished.json",
        "aesthetic.safetensors",
        "text_projection.safetensors",
    }
    events = []
    config, method = aesthetic_method(index, pipeline_folder, clip_folder)
    again = run_through(config, method, run_folder, events=events.append)
    assert again.finished and [event["event"] for event in events] == ["nothing to do"]
    assert files == {p: p.read_bytes() for p in run_folder.rglob("*") if p.is_file()}
    anew = run_through(config, method, tmp_path)
    assert (anew.export / "aesthetic.safetensors").read_bytes() == files[
        run_folder / "export" / "aesthetic.safetensors"
    ]


def test_asked_to_stop_it_leaves_nothing_and_comes_back(index, pipeline_folder, clip_folder, tmp_path):
    config, method = aesthetic_method(index, pipeline_folder, clip_folder)
    beats = []
    stopped = run_through(
        config, method, tmp_path, lambda: True, beat=lambda pulse: beats.append(pulse.position)
    )
    assert stopped.stopped and not stopped.finished and not list(tmp_path.iterdir()) and beats
    assert run_through(config, method, tmp_path).finished


def test_killed_on_the_way_and_made_anew_by_two_ranks_it_is_the_same(
    run_folder, index, pipeline_folder, clip_folder, tmp_path
):
    shards = index.folder

    def work(**options) -> None:
        made = aesthetic_method(ShardIndex.open(shards), pipeline_folder, clip_folder)
        run_through(*made, tmp_path / "run", **options)

    log, killed = tmp_path / "log.txt", lambda pulse: os.kill(os.getpid(), signal.SIGKILL)
    assert fork_ranks(1, lambda _: work(beat=killed), log) == [-signal.SIGKILL]
    assert not (tmp_path / "run" / "export").exists()
    assert fork_ranks(2, lambda _: work(), log) == [0, 0], log.read_text()[-3000:]
    assert (tmp_path / "run" / "finished.json").is_file()
    made = [folder / "export" / "aesthetic.safetensors" for folder in (tmp_path / "run", run_folder)]
    assert made[0].read_bytes() == made[1].read_bytes()


def test_shards_without_pictures_are_refused(tmp_path, pipeline_folder, clip_folder):
    def shards(name: str, split: str, broken: str) -> ShardIndex:
        folder = tmp_path / name
        folder.mkdir()
        write_json(folder / "codec.json", CODEC.to_json())
        with ShardWriter(folder / f"{split}-000000.tar") as writer:
            for species in SPECIES:
                facts = {"key": species, "species": [species], "captions": [species], "recording_id": species}
                image = np.zeros((1, 32, 64), np.uint8)
                held = b"torn" if species == broken else image
                writer.write(species.replace(" ", ""), {"npy": held, "json": facts})
        return ShardIndex.open(folder)

    with refuses("empty", "method=aesthetic_gradients", kind=NothingLeft):
        aesthetic_method(shards("empty", "validation", ""), pipeline_folder, clip_folder)
    torn = shards("torn", "train", SPECIES[1])
    with refuses(SPECIES[1], kind=NothingLeft):
        run_through(*aesthetic_method(torn, pipeline_folder, clip_folder), tmp_path / "run")
    assert not (tmp_path / "run" / "export").exists()


def test_a_clip_that_does_not_fit_the_base_is_refused(index, pipeline_folder, text, tmp_path):
    wide = models.build_text_encoder({**TEXT, "hidden_size": 48}, vocabulary=len(text[1]), max_tokens=16)
    build_clip(wide, text[1], VISION, 0).save(tmp_path / "wide")
    with refuses("48 wide", "32 wide", kind=Mismatch):
        run_through(*aesthetic_method(index, pipeline_folder, tmp_path / "wide"), tmp_path / "run")
    with refuses("'clip_text_model'", "vision_model", kind=NotFound):
        run_through(
            *aesthetic_method(index, pipeline_folder, pipeline_folder / "text_encoder"), tmp_path / "run"
        )


def test_folders_that_are_no_aesthetic_are_refused(run_folder, tmp_path):
    with refuses(str(tmp_path), "aesthetic.safetensors", kind=NotFound):
        Aesthetic.load(tmp_path)
    rows = load_file(run_folder / "export" / "aesthetic.safetensors")
    matrix = load_file(run_folder / "export" / "text_projection.safetensors")
    save_file({"all": rows["all"][:, :9].half().contiguous()}, tmp_path / "aesthetic.safetensors")
    save_file(matrix, tmp_path / "text_projection.safetensors")
    with refuses("9 wide", "24 wide", kind=Mismatch):
        Aesthetic.load(tmp_path)
    save_file({"rain": rows["all"][0].half()}, tmp_path / "aesthetic.safetensors")
    alone = Aesthetic.load(tmp_path)  # a bare row, fp16 as many in the wild are
    assert alone.embedding("rain").dtype == torch.float32 and alone.embedding("rain").shape == (1, 24)
    assert alone.name_for("a Wren") == "rain"
    save_file({"x": torch.zeros(2, 24)}, tmp_path / "aesthetic.safetensors")
    with refuses("[2, 24]", kind=Damaged):
        Aesthetic.load(tmp_path)


def test_the_embedding_is_that_of_the_first_species_in_the_prompt(run_folder, tmp_path):
    made = Aesthetic.load(run_folder)
    assert made.name_for("eurasian wrens and an American Robin") == SPECIES[1]
    assert made.name_for("a bird") == "all"
    with refuses("'Eurasian Wen'", "'Eurasian Wren'", kind=UnknownName):
        made.embedding("Eurasian Wen")
    two = aesthetics.Aesthetic(tmp_path, {n: made.embedding(n) for n in SPECIES}, made.text_projection)
    with refuses("'a bird'", "aesthetic_name=NAME", kind=NothingLeft):
        two.name_for("a bird")


def test_a_generator_personalises_on_top_of_learnt_tokens(index, pipeline_folder, clip_folder, tmp_path):
    """base <- a token <- aesthetic gradients: what is tuned is the encoder with the new row in it."""
    vector = torch.linspace(-0.1, 0.1, 32)[None]

    def write(partial: Path) -> None:
        (partial / "embeddings").mkdir()
        save_file({"<robin>": vector}, partial / "embeddings" / "_robin_.safetensors")

    inversion = tmp_path / "inversion" / "export"
    write_adapter(
        inversion, "embedding", write, codec=CODEC.to_json(), heard=training_set(index),
        about={"tokens": {"<robin>": 1}}, base=str(pipeline_folder), words={SPECIES[0]: "<robin>"},
    )  # fmt: skip
    names = [path.name for path in (inversion / "embeddings").iterdir()]
    from birdsd.files import safe_name

    (inversion / "embeddings" / names[0]).rename(
        inversion / "embeddings" / f"{safe_name('<robin>')}.safetensors"
    )
    run_through(*aesthetic_method(index, inversion.parent, clip_folder), tmp_path / "run")
    model = Generator(tmp_path / "run")
    request = Request((PROMPT,), aesthetic_steps=4, aesthetic_rate=1e-3)
    context, negative = model.conditioning(request, [PROMPT])
    encoder, tokenizer = model.pipeline.text_encoder, model.pipeline.tokenizer
    assert torch.equal(encoder.get_input_embeddings().weight[-1], vector[0])
    made = Aesthetic.load(tmp_path / "run")
    expected = published(
        encoder, tokenizer, made.text_projection, made.embedding(SPECIES[0]), "a <robin> singing", 4, 1e-3
    )
    assert torch.allclose(context, expected, atol=1e-6, rtol=0)
    assert torch.equal(negative, sampling.encode_texts(encoder, tokenizer, [""]))


def test_stereo_pictures_have_features(clip_folder, tmp_path):
    from birdsd.sound.codec.codec import SpectrogramCodec

    stereo = SpectrogramCodec.from_json({**CODEC.to_json(), "channels": 2})
    reader = ShardReader(ShardIndex.open(make_shards(tmp_path / "stereo", stereo)), "train")
    features = load_clip(str(clip_folder)).image_features(torch.from_numpy(reader.read(0).image)[None])
    assert features.shape == (1, 24) and features.isfinite().all()
