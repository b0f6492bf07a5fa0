"""Prompt weighting: AUTOMATIC1111's grammar, and its arithmetic in a few lines of its own."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from birdsd.diffusion.generation import sampling
from birdsd.diffusion.generation.prompts import (
    emphasise,
    encode_weighted,
    keep_names,
    literal,
    parse_emphasis,
    plain_text,
    weighted_ids,
)
from birdsd.diffusion.networks.tokenizer import token_ids


@pytest.fixture(scope="module")
def text(trained):
    """(text encoder, tokenizer) whose hidden states have a mean, as those of a real CLIP do."""
    parts = trained[1]
    encoder = copy.deepcopy(parts.learner.text_encoder).eval()
    last = next(module for name, module in encoder.named_modules() if name.endswith("final_layer_norm"))
    torch.nn.init.constant_(last.bias, -2.0)
    return encoder, parts.tokenizer


@pytest.mark.parametrize(
    ("prompt", "pieces"),
    [
        ("normal text", [("normal text", 1.0)]),
        ("an (important) word", [("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
        ("(a:1.3) b", [("a", 1.3), (" b", 1.0)]),
        ("(a: 0.5 ) b", [("a", 0.5), (" b", 1.0)]),
        ("[a] b", [("a", 1 / 1.1), (" b", 1.0)]),
        ("((a)) b", [("a", 1.1 * 1.1), (" b", 1.0)]),
        ("(a (b:2) c:1.5)", [("a ", 1.5), ("b", 3.0), (" c", 1.5)]),
        (r"\(literal\]", [("(literal]", 1.0)]),
        (r"(a \(b\):1.2)", [("a (b)", 1.2)]),
        ("(unbalanced", [("unbalanced", 1.1)]),
        ("a) b] c", [("a) b] c", 1.0)]),
        ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
        ("no bracket:1.3)", [("no bracket:1.3)", 1.0)]),
        ("(a:b)", [("a:b", 1.1)]),
        ("(a:1.2.3)", [("a:1.2.3", 1.1)]),
        ("[a:b:0.5]", [("a:b:0.5", 1 / 1.1)]),
        ("(a:-1)", [("a", -1.0)]),
        ("a\\b", [("ab", 1.0)]),
        ("", [("", 1.0)]),
        ("()", [("", 1.0)]),
    ],
)
def test_the_grammar(prompt, pieces):
    found = parse_emphasis(prompt)
    assert [words for words, _ in found] == [words for words, _ in pieces]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in pieces])


def test_the_example_of_the_web_ui():
    found = parse_emphasis("a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).")
    words = ["a ", "house", " ", "on", " a ", "hill", ", sun, ", "sky", "."]
    weights = [1.0, 1.573, 1.1, 1.0, 1.1, 0.55, 1.1, 1.4641, 1.1]
    assert [w for w, _ in found] == words
    assert [w for _, w in found] == pytest.approx(weights)


@given(st.text(alphabet="ab ()[]:\\1.3鳥"))
@settings(max_examples=200, deadline=None)
def test_any_text_is_read_and_none_of_its_letters_are_lost(prompt):
    pieces = parse_emphasis(prompt)
    assert all(a != b for (_, a), (_, b) in pairwise(pieces))
    letters = [c for c in plain_text(prompt) if c in "ab鳥"]
    assert letters == [c for c in prompt if c in "ab鳥"]
    assert parse_emphasis(literal(prompt)) == [(prompt, 1.0)]


def test_brackets_in_a_name_weigh_nothing():
    names = ["Northern Flicker (Red-shafted)", "Robin"]
    kept = keep_names("(a northern flicker (red-shafted):1.4) in (rain)", names)
    assert parse_emphasis(kept) == [
        ("a northern flicker (red-shafted)", 1.4), (" in ", 1.0), ("rain", 1.1)
    ]  # fmt: skip
    assert keep_names("a (robin)", names) == "a (robin)"


def test_without_emphasis_nothing_changes_by_a_bit(text):
    encoder, tokenizer = text
    prompts = ["an American Robin singing", "", "a Eurasian Wren: two, " * 20]
    expected = sampling.encode_texts(encoder, tokenizer, prompts)
    assert torch.equal(encode_weighted(encoder, tokenizer, prompts), expected)
    escaped = encode_weighted(encoder, tokenizer, [r"a robin \(male\)"])
    assert torch.equal(escaped, sampling.encode_texts(encoder, tokenizer, ["a robin (male)"]))


def test_the_arithmetic_is_that_of_the_web_ui(text):
    encoder, tokenizer = text
    prompt = "an (American Robin:1.4) in [loud] rain"
    pieces = [("an ", 1), ("American Robin", 1.4), (" in ", 1), ("loud", 1 / 1.1), (" rain", 1)]
    tokens, weights = [tokenizer.bos_token_id], [1.0]
    for words, weight in pieces:
        ids = tokenizer(words, add_special_tokens=False).input_ids
        tokens, weights = tokens + ids, weights + [weight] * len(ids)
    rest = 16 - len(tokens)
    tokens, weights = tokens + [tokenizer.eos_token_id] * rest, weights + [1.0] * rest
    with torch.no_grad():
        z = encoder(torch.tensor([tokens]))[0]
        mean = z.mean()
        z = z * torch.tensor([weights])[..., None]
        z = z * (mean / z.mean())
    found = encode_weighted(encoder, tokenizer, [prompt])
    assert torch.allclose(found, z, atol=1e-6)
    assert found.mean().item() == pytest.approx(mean.item(), rel=1e-5)
    plain = sampling.encode_texts(encoder, tokenizer, ["an American Robin in loud rain"])
    assert not torch.allclose(found, plain, atol=1e-3)


def test_neighbours_do_not_matter(text):
    encoder, tokenizer = text
    prompts = ["an (American Robin:1.4)", "a wren", "((rain))"]
    together = encode_weighted(encoder, tokenizer, prompts)
    for row, prompt in zip(together, prompts, strict=True):
        assert torch.allclose(row, encode_weighted(encoder, tokenizer, [prompt])[0], atol=1e-6)


def test_long_prompts_are_cut_where_plain_ones_are(text):
    _, tokenizer = text
    long = "robin wren " * 30
    tokens, weights = weighted_ids(tokenizer, [f"({long}:1.2)", long])
    assert tokens.shape == weights.shape == (2, 16)
    assert torch.equal(tokens, token_ids(tokenizer, [long, long]))
    assert weights[0].tolist() == pytest.approx([1.0] + 14 * [1.2] + [1.0])
    assert weights[1].tolist() == 16 * [1.0]


def test_a_mean_of_nearly_nothing_does_not_blow_up():
    states = torch.tensor([[[1.0, -1.0], [2.0, -2.0 + 1e-6], [0.5, -0.5]]])
    weights = torch.tensor([[1.0, 1.5, 1.0]])
    found = emphasise(states, weights)
    factors = found / (states * weights[..., None])
    assert factors.min() >= 1 / 1.5 - 1e-6 and factors.max() <= 1 + 1e-6
    nothing = emphasise(torch.zeros(1, 3, 2), weights)
    assert torch.isfinite(nothing).all()


def test_states_from_elsewhere_are_weighted_too(text):
    encoder, tokenizer = text
    seen = []

    def states(plain):
        seen.extend(plain)
        return torch.full((len(plain), 16, 4), -1.0)

    found = encode_weighted(encoder, tokenizer, ["(robin:2)", "robin"], states)
    assert seen == ["robin", "robin"]
    assert torch.equal(found[1], torch.full((16, 4), -1.0))
    assert len(found[0].unique()) == 2 and found[0].mean().item() == pytest.approx(-1)
