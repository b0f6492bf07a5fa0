"""Models on disk: ours as safetensors, soundscape_IR's as .mat, and files that are neither."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from birdsd.errors import Damaged, Mismatch, NotFound, Unsupported, UserError
from birdsd.sound.separation.grid import Grid
from birdsd.sound.separation.mat import load_bases, save_mat
from birdsd.sound.separation.model import DECIBEL, Bases, joined
from tests.support.errors import refuses

RULE = "a model of soundscape_IR is"


def bases(count: int = 3, bins: int = 65, depth: int = 2, **changes) -> Bases:
    draw = np.random.default_rng(count)
    weights = draw.random((depth * bins, count)).astype(np.float32)
    weights /= weights.sum(axis=0)
    settings = {
        "weights": weights, "sources": ("bird", "rain"), "owner": np.array([0] * (count - 1) + [1]),
        "hz": (np.arange(bins) * 125).astype(np.float32), "window_s": 0.008, "overlap": 4, "depth": depth,
    }  # fmt: skip
    return Bases(**(settings | changes))


def test_safetensors_there_and_back(tmp_path: Path):
    model = bases(notes={"learnt_from": "here"})
    again = load_bases(model.save(tmp_path / "model.safetensors"))
    np.testing.assert_array_equal(again.weights, model.weights)
    assert (again.sources, again.depth, again.notes) == (model.sources, 2, {"learnt_from": "here"})
    assert again.identity == model.identity != bases(4).identity


def test_mat_there_and_back_as_soundscape_ir_reads_it(tmp_path: Path):
    model = bases(domain=DECIBEL)
    path = save_mat(model, tmp_path / "model.mat")
    # What its load_model does, field by field.
    stored = loadmat(path)["save_nmf"]
    assert stored["k"].item()[0][0] == 2 and stored["time_frame"].item()[0][0] == 2
    np.testing.assert_array_equal(stored["W_cluster"].item()[0], [0, 0, 1])
    np.testing.assert_allclose(stored["f"].item()[0], model.hz)
    # There the latest delay comes first.
    np.testing.assert_allclose(stored["W"].item()[:65], model.weights[65:], rtol=1e-6)
    again = load_bases(path)
    np.testing.assert_allclose(again.weights, model.weights, rtol=1e-5)
    assert again.sources == ("bird", "rain") and again.domain == DECIBEL and again.depth == 2


def test_a_foreign_mat_has_numbered_sources_and_decibels(tmp_path: Path):
    stored = {
        "f": np.arange(10.0) * 100, "W": np.random.default_rng(0).random((10, 4)), "k": 2, "time_frame": 1,
        "W_cluster": [0.0, 1, 1, 0], "basis_num": 4, "sparseness": 0.5,
    }  # fmt: skip
    savemat(tmp_path / "theirs.mat", {"save_nmf": stored})
    model = load_bases(tmp_path / "theirs.mat")
    assert model.sources == ("source1", "source2") and model.domain == DECIBEL
    assert model.window_s == pytest.approx(0.01)


def bomb() -> bytes:
    """A compressed element of some kilobytes that unpacks to 1 GiB."""
    packer = zlib.compressobj(9)
    zeros = bytes(1 << 20)
    packed = b"".join([*(packer.compress(zeros) for _ in range(1024)), packer.flush()])
    return (
        b"MATLAB 5.0".ljust(124)
        + struct.pack("<H2s", 0x100, b"IM")
        + struct.pack("<II", 15, len(packed))
        + packed
    )


def mat(**held: object) -> bytes:
    buffer = io.BytesIO()
    savemat(buffer, held)
    return buffer.getvalue()


GOOD = {"f": np.arange(3.0), "W": np.ones((3, 2)), "k": 1, "time_frame": 1, "W_cluster": [0, 0]}
HOSTILE = {
    "nothing": b"",
    "no MATLAB file": b"#!/bin/sh\nrm -rf ~\n" * 20,
    "cut short": mat(save_nmf=GOOD)[:200],
    "a pickle": b"\x80\x04\x95\x0e\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94\x8c\x06system\x94\x93\x94." * 9,
    "unpacks to more": bomb(),
    "no struct": mat(other=np.ones(3)),
    "not a struct": mat(save_nmf=np.ones((3, 3))),
    "a field is missing": mat(save_nmf={"f": np.arange(3.0), "W": np.ones((3, 2))}),
    "text for numbers": mat(save_nmf=GOOD | {"W": "import os"}),
    "cells for numbers": mat(save_nmf=GOOD | {"W": np.array([["a", 1]], dtype=object)}),
    "other shape": mat(save_nmf=GOOD | {"W": np.ones((4, 2))}),
    "NaN": mat(save_nmf=GOOD | {"W": np.full((3, 2), np.nan)}),
    "negative": mat(save_nmf=GOOD | {"W": -np.ones((3, 2))}),
    "an owner that is not there": mat(save_nmf=GOOD | {"W_cluster": [0, 7]}),
    "frequencies that fall": mat(save_nmf=GOOD | {"f": np.array([3.0, 2, 1])}),
    "a depth of a million": mat(save_nmf=GOOD | {"time_frame": 10**6}),
    "a struct in a struct": mat(save_nmf=GOOD | {"k": {"a": {"b": 1}}}),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_mat_is_refused_in_a_sentence(what: str, tmp_path: Path):
    path = tmp_path / "hostile.mat"
    path.write_bytes(HOSTILE[what])
    # Without its struct nothing is damaged: it is another file.
    with pytest.raises(NotFound if what in ("no struct", "not a struct") else Damaged) as refused:
        load_bases(path)
    assert "Traceback" not in str(refused.value) and len(str(refused.value)) < 600


def test_every_bit_flipped_of_a_mat_ends_in_a_model_or_a_sentence(tmp_path: Path):
    whole, draw = mat(save_nmf=GOOD), np.random.default_rng(0)
    path = tmp_path / "damaged.mat"
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[int(draw.integers(len(whole)))] ^= 1 << int(draw.integers(8))
        path.write_bytes(damaged)
        with contextlib.suppress(UserError):
            assert load_bases(path).depth == 1


@pytest.mark.parametrize(
    ("name", "held", "kind"),
    [
        ("model.safetensors", b"\xff" * 64, Damaged),
        ("model.pt", b"x", Unsupported),
        ("nowhere.safetensors", None, NotFound),
    ],
)
def test_other_files_are_refused(name: str, held: bytes | None, kind: type[UserError], tmp_path: Path):
    if held is not None:
        (tmp_path / name).write_bytes(held)
    with refuses(name, kind=kind):
        load_bases(tmp_path / name)


def test_weights_of_another_kind_are_told_apart(tmp_path: Path):
    from safetensors.numpy import save_file

    save_file({"unet.weight": np.ones(3, np.float32)}, tmp_path / "other.safetensors")
    with refuses("unet.weight", kind=Mismatch):
        load_bases(tmp_path / "other.safetensors")


def test_joining_keeps_names_apart_and_refuses_other_grids():
    one = bases(2, sources=("bird",), owner=np.zeros(2, np.int64))
    two = bases(4, sources=("rain",), owner=np.zeros(4, np.int64))
    both = joined([one, two, one])
    assert both.sources == ("bird", "rain") and both.weights.shape[1] == 8
    assert both.of("rain").weights.shape[1] == 4
    with refuses("bird and bird, rain", kind=Mismatch):
        joined([one, bases(2, depth=3)])


def test_a_model_fits_other_rates_by_frequency_and_not_one_too_low():
    model = bases(bins=129)  # to 16 kHz, in steps of 125 Hz
    for rate_hz in (32000, 44100, 48000, 96000, 24000):
        bins, weights = model.rows(model.grid(rate_hz))
        hz = bins * model.grid(rate_hz).bin_hz
        assert np.abs(hz - model.hz[: len(bins)]).max() <= 0.51 * model.grid(rate_hz).bin_hz
        assert weights.shape == (2 * len(bins), 3)
    with refuses(("0-16000 Hz", "8000 Hz", "4000 Hz"), kind=Mismatch):
        model.rows(Grid.of(8000, model.window_s, model.overlap))
