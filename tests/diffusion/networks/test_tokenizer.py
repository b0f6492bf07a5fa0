"""The tokenizer: CLIP's layout, every text encodable, the same from the same captions."""

from __future__ import annotations

import json

import pytest
from transformers import CLIPTokenizer

from birdsd.diffusion.networks.tokenizer import END, save_tokenizer, token_ids, train_tokenizer
from birdsd.errors import BadValue
from tests.support.errors import refuses

CAPTIONS = ["an American Robin singing in loud rain", "a Eurasian Wren calling", "Steller's Jay, faint"] * 4
TEXTS = ["an American Robin", "a wren in Übersee, 鳥 🐦", "", "robin " * 40]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(CAPTIONS, 600, 12)


def test_texts_are_padded_and_cut_to_the_same_length(tokenizer):
    ids = token_ids(tokenizer, TEXTS)
    assert ids.shape == (4, 12)
    end = tokenizer.convert_tokens_to_ids(END)
    assert end == len(tokenizer) - 1 and len(tokenizer) <= 600
    assert (ids[:, 0] == end - 1).all()
    assert ids[2].tolist() == [end - 1] + [end] * 11
    assert ids[3, -1] == end


def test_what_was_never_seen_is_still_encodable(tokenizer):
    text = "zebra Übersee 鳥 q7"
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text.lower().replace(
        "7", " 7"
    )


def test_frequent_words_became_one_token(tokenizer):
    assert len(tokenizer("robin").input_ids) == 3


def test_both_ways_of_reading_the_saved_folder_agree(tokenizer, tmp_path):
    save_tokenizer(tokenizer, tmp_path / "whole")
    whole = CLIPTokenizer.from_pretrained(tmp_path / "whole")
    assert whole.model_max_length == 12
    clip = tmp_path / "clip"
    clip.mkdir()
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        (clip / name).write_bytes((tmp_path / "whole" / name).read_bytes())
    old_layout = CLIPTokenizer.from_pretrained(clip)
    for other in (whole, old_layout):
        assert token_ids(other, TEXTS).tolist() == token_ids(tokenizer, TEXTS).tolist()


def model_of(tokenizer) -> dict:
    return json.loads(tokenizer.backend_tokenizer.to_str())["model"]


def test_the_same_captions_always_give_the_same_tokenizer(tokenizer):
    # Many times: the library's hash maps are seeded anew each time, and ties must not be left to them.
    for round_number in range(10):
        again = train_tokenizer(sorted(CAPTIONS, key=lambda text: hash((text, round_number))), 600, 12)
        assert model_of(again) == model_of(tokenizer)


def test_a_vocabulary_without_room_for_bytes_is_refused():
    with refuses("model.vocabulary_size=100", "514", kind=BadValue):
        train_tokenizer(CAPTIONS, 100, 12)
