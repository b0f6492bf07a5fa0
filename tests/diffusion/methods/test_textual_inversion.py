"""Textual inversion: only the new rows learn, everything else stays to the bit, diffusers reads what comes
out."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import nn

from birdsd.diffusion.generation import sampling
from birdsd.diffusion.methods import make_method
from birdsd.diffusion.methods.textual_inversion import token_words
from birdsd.diffusion.networks import models
from birdsd.diffusion.networks.token_vectors import (
    TokenRows,
    add_tokens,
    expand_tokens,
    first_vector,
    fold_rows,
    install_rows,
    split_rows,
)
from birdsd.errors import AlreadyThere, BadValue, Mismatch, NothingLeft, NotSet, UnknownName
from birdsd.shards.index import ShardIndex
from birdsd.shards.reader import ShardReader
from tests.support.errors import refuses
from tests.support.tiny import SPECIES, batch, make_shards, train, train_config

CPU = torch.device("cpu")
TOKENS = {"<american-robin>": 2, "<eurasian-wren>": 2}


def made(index, source, **changes):
    settings = {"vectors": 2, "init": "pretrained", "source": source, "initial_word": "song", **changes}
    method = make_method(train_config("textual_inversion", **settings), index)
    return method, method.build(CPU, torch.float32)


@pytest.fixture(scope="module")
def taught(index, pipeline_folder, tmp_path_factory):
    """(method, parts, start, export) after some steps."""
    method, parts = made(index, pipeline_folder)
    start = {name: p.detach().clone() for name, p in parts.learner.named_parameters()}
    train(method, parts, index, steps=4, learning_rate=1e-2)
    return method, parts, start, method.export(parts, tmp_path_factory.mktemp("ti") / "export")


# -- the rows ---------------------------------------------------------------------------------------


def test_rows_behind_a_table_are_one_larger_table():
    torch.manual_seed(0)
    table, rows = nn.Embedding(7, 5), torch.randn(3, 5)
    held = TokenRows(table, 7, rows)
    whole = nn.Embedding.from_pretrained(torch.cat([table.weight.detach(), rows]))
    ids = torch.randint(0, 10, (4, 6))
    assert torch.equal(held(ids), whole(ids))
    assert torch.equal(held.folded().weight, whole.weight)
    weights = torch.randn(4, 6, 5)
    (held(ids) * weights).sum().backward()
    whole.weight.requires_grad_(True)
    (whole(ids) * weights).sum().backward()
    assert torch.equal(held.rows.grad, whole.weight.grad[7:])
    assert table.weight.grad is None and [n for n, p in held.named_parameters() if p.requires_grad] == [
        "rows"
    ]


def test_a_table_with_room_to_spare_is_folded_at_the_tokenizers_length():
    held = TokenRows(nn.Embedding(10, 2), 8, torch.ones(3, 2))  # e.g. padded to a multiple of 64
    assert held.folded().weight.shape == (11, 2) and (held.folded().weight[8:] == 1).all()
    assert torch.equal(held(torch.tensor([8, 9, 10])), torch.ones(3, 2))


def test_a_table_in_low_precision_keeps_full_rows():
    held = TokenRows(nn.Embedding(4, 3).to(torch.bfloat16), 4, torch.full((1, 3), 0.1))
    assert held.rows.dtype == torch.float32
    assert held(torch.tensor([[0, 4]])).dtype == torch.bfloat16


# -- the method -------------------------------------------------------------------------------------


def test_only_the_new_rows_learn(taught):
    _, parts, start, _ = taught
    learning = {name for name, p in parts.learner.named_parameters() if p.requires_grad}
    assert learning == {"text_encoder.embeddings.token_embedding.rows"}
    for name, parameter in parts.learner.named_parameters():
        if name in learning:
            assert (parameter != start[name]).any(dim=1).all()  # each vector of each token
        else:
            assert parameter.grad is None and torch.equal(parameter, start[name]), name


def test_the_gradient_is_that_of_the_whole_table(index, pipeline_folder):
    """Against diffusers' way: an ordinary larger table, every row with a gradient."""
    method, parts = made(index, pipeline_folder)
    data = batch(method, parts, index, 0)
    parts.learner(data).mean().backward()
    rows = method.rows(parts).rows
    fold_rows(parts.learner.text_encoder)
    table = parts.learner.text_encoder.get_input_embeddings().weight.requires_grad_(True)
    parts.learner(data).mean().backward()
    assert torch.equal(rows.grad, table.grad[-4:]) and rows.grad.abs().sum() > 0


def test_vectors_begin_as_the_word(index, pipeline_folder):
    text, tokenizer = models.load_text(str(pipeline_folder))
    ids = tokenizer("song", add_special_tokens=False).input_ids
    start = text.get_input_embeddings().weight[ids].mean(0)
    method, parts = made(index, pipeline_folder)
    assert torch.equal(method.rows(parts).rows, start.expand(4, -1))
    several, count = first_vector(tokenizer, text.get_input_embeddings().weight, "zxq")
    assert count > 1 and several.shape == start.shape
    _, parts = made(index, pipeline_folder, initial_word="zxq")
    lines = make_method(
        train_config("textual_inversion", init="pretrained", source=pipeline_folder, initial_word="zxq"),
        index,
    )
    shown = lines.setup(lines.build(CPU, torch.float32), list, lambda: None)
    assert f" {count} tokens" in shown[-1] and "<american-robin>" in shown[-1]


def test_captions_name_the_tokens(index, pipeline_folder):
    method, parts = made(index, pipeline_folder)
    assert method.wording(parts, "an American Robin singing") == (
        "a <american-robin> <american-robin>_1 singing"
    )
    assert method.wording(parts, "") == ""
    example = method.make_example(parts, ShardReader(index, "train").read(0), 0, "validation")
    first = len(parts.tokenizer) - 4
    assert [n for n in example["input_ids"].tolist() if n >= first] == [first, first + 1]
    method, parts = made(index, pipeline_folder, tokens="style", style_token="<birdsong>")
    assert method.wording(parts, "a song") == "a song, <birdsong> <birdsong>_1"
    assert method.wording(parts, "a <birdsong>") == "a <birdsong> <birdsong>_1" and not method.wording(
        parts, ""
    )
    assert list(method.tokens) == ["<birdsong>"] and method.words(parts) == {}


def test_it_learns(index, pipeline_folder):
    """The same samples and noise before and after."""
    method, parts = made(index, pipeline_folder, vectors=4)
    with torch.no_grad():
        data = batch(method, parts, index, 0, 12)
        before = parts.learner(data).mean().item()
    train(method, parts, index, steps=25, learning_rate=0.05)
    with torch.no_grad():
        assert parts.learner(data).mean().item() < before


# -- the export -------------------------------------------------------------------------------------


def test_the_export_is_diffusers_form_and_nothing_else(taught):
    from safetensors.torch import load_file

    method, parts, _, folder = taught
    assert sorted(p.name for p in (folder / "embeddings").iterdir()) == [
        "american-robin.safetensors",
        "eurasian-wren.safetensors",
    ]
    held = load_file(str(folder / "embeddings/american-robin.safetensors"))
    assert torch.equal(held["<american-robin>"], method.rows(parts).rows[:2]) and len(held) == 1
    told = json.loads((folder / "training.json").read_text())
    assert told["kind"] == "embedding" and told["tokens"] == TOKENS
    assert told["words"] == {"American Robin": "<american-robin>", "Eurasian Wren": "<eurasian-wren>"}
    assert told["base"]["identity"] and (folder / "codec.json").is_file()
    assert sum(p.stat().st_size for p in folder.rglob("*.safetensors")) < 10_000


def test_diffusers_loads_it_and_conditions_alike_to_the_bit(taught, pipeline_folder):
    method, parts, _, folder = taught
    pipeline = StableDiffusionPipeline.from_pretrained(str(pipeline_folder), safety_checker=None)
    stock = pipeline.text_encoder.get_input_embeddings().weight.detach().clone()
    for file in sorted((folder / "embeddings").iterdir()):
        pipeline.load_textual_inversion(str(file))
    prompt = "a <american-robin> and a <eurasian-wren> singing"
    theirs = pipeline.encode_prompt(prompt, CPU, 1, False)[0]
    ours = sampling.encode_texts(
        parts.learner.text_encoder, parts.tokenizer, [expand_tokens(prompt, method.tokens)]
    )
    assert torch.equal(theirs, ours)
    assert torch.equal(pipeline.text_encoder.get_input_embeddings().weight[: len(stock)], stock)
    plain = sampling.encode_texts(parts.learner.text_encoder, parts.tokenizer, ["a song"])
    untouched, tokenizer = models.load_text(str(pipeline_folder))
    assert torch.equal(plain, sampling.encode_texts(untouched, tokenizer, ["a song"]))


def test_folded_into_an_ordinary_encoder(taught, pipeline_folder, tmp_path):
    """A pipeline saved after folding is one that transformers loads without knowing of rows."""
    method, parts, _, _ = taught
    text, tokenizer = models.load_text(str(pipeline_folder))
    stock = text.get_input_embeddings().weight.detach().clone()
    first = add_tokens(tokenizer, method.tokens)
    install_rows(text, first, method.rows(parts).rows)
    prompt = expand_tokens("a <american-robin> singing", method.tokens)
    before = sampling.encode_texts(text, tokenizer, [prompt])
    fold_rows(text)
    assert torch.equal(sampling.encode_texts(text, tokenizer, [prompt]), before)
    assert torch.equal(text.get_input_embeddings().weight[:first], stock)
    text.save_pretrained(tmp_path / "text_encoder")
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    again, reader = models.load_text(str(tmp_path))
    assert torch.equal(sampling.encode_texts(again, reader, [prompt]), before)


def test_the_preview_has_pictures_and_sound(taught, tmp_path):
    method, parts, _, _ = taught
    paths = method.preview(parts, [f"a {SPECIES[0]} singing"], tmp_path / "preview")
    assert {path.suffix for path in paths} == {".png", ".wav"}


# -- the words --------------------------------------------------------------------------------------


def test_several_vectors_are_written_out_once():
    tokens = {"<wren>": 3, "<robin>": 1}
    text = "a <Wren> and a <robin>, <wren>"
    once = "a <wren> <wren>_1 <wren>_2 and a <robin>, <wren> <wren>_1 <wren>_2"
    assert expand_tokens(text, tokens) == once and expand_tokens(once, tokens) == once


def test_tokens_of_species_are_words():
    words = token_words(["Townsend's Warbler", "Dark-eyed Junco", "Dark eyed Junco", "Grünfink", "???"])
    assert words == {
        "???": "<bird>",
        "Dark eyed Junco": "<dark-eyed-junco>",
        "Dark-eyed Junco": "<dark-eyed-junco-2>",
        "Grünfink": "<grünfink>",
        "Townsend's Warbler": "<townsends-warbler>",
    }


def test_rows_are_split_by_token():
    rows = torch.arange(6.0).view(3, 2)
    pieces = split_rows(rows, {"<a>": 2, "<b>": 1})
    assert torch.equal(pieces["<a>"], rows[:2]) and torch.equal(pieces["<b>"], rows[2:])


# -- what is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "kind", "named"),
    [
        ({"vectors": -1}, BadValue, "method.vectors=-1"),
        ({"vectors": 15}, BadValue, "15 vectors"),
        ({"tokens": "per_bird"}, UnknownName, "'per_bird'"),
        ({"tokens": "style", "style_token": "song"}, AlreadyThere, " song "),
        ({"tokens": "style", "style_token": "<my song>"}, BadValue, "'<my song>'"),
        ({"initial_word": ""}, UnknownName, "method.initial_word=''"),
        ({"init": "scratch"}, Mismatch, "model.init=scratch"),
        ({"source": ""}, NotSet, "model.source"),
    ],
)
def test_what_cannot_be_taught(index, pipeline_folder, changes, kind, named):
    with refuses(named, kind=kind):
        made(index, **{"source": pipeline_folder, **changes})


@pytest.mark.parametrize("name", ["<american-robin>", "<American-Robin>", "<x>_1"])
def test_a_placeholder_that_exists(pipeline_folder, name):
    _, tokenizer = models.load_text(str(pipeline_folder))
    add_tokens(tokenizer, {"<american-robin>": 1, "<x>": 2})
    with refuses(name, kind=AlreadyThere):
        add_tokens(tokenizer, {name: 1})


def test_shards_that_name_no_species(index, pipeline_folder, tmp_path, monkeypatch):
    from tests.support import tiny

    class Unnamed(tiny.ShardWriter):
        def write(self, key, parts):
            return super().write(key, {**parts, "json": {**parts["json"], "species": []}})

    monkeypatch.setattr(tiny, "ShardWriter", Unnamed)
    bare = ShardIndex.open(make_shards(tmp_path / "shards"))
    with refuses("shards", "method.tokens=style", kind=NothingLeft):
        made(bare, pipeline_folder)
    method, parts = made(bare, pipeline_folder, tokens="style")
    assert np.isfinite(train(method, parts, bare, 1, 1e-3)).all()
