"""From a recording, and perhaps a model, to what separates it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from birdsd.errors import BadValue, Mismatch, NothingLeft, unknown_name
from birdsd.randomness import generator
from birdsd.sound.separation import masks, nmf, periodicity
from birdsd.sound.separation.gate import steady_level
from birdsd.sound.separation.grid import OVERLAP, TOP_HZ, WINDOW_S, Grid
from birdsd.sound.separation.measures import improvement_db
from birdsd.sound.separation.model import DECIBEL, DEPTH, MAGNITUDE, Bases, joined
from birdsd.sound.separation.sample import Piece, Sample
from birdsd.sound.separation.separator import (
    AdaptiveSeparator,
    BasesSeparator,
    GateSeparator,
    Separator,
    stems_of,
)
from birdsd.sound.song_finder import find_songs

AUTO, GATE, NMF, PCNMF = "auto", "gate", "nmf", "pcnmf"
BASES = {PCNMF: 10}  # where nothing is said, of any other method 16
METHODS = (AUTO, GATE, NMF, PCNMF)
LEARNING = 60  # iterations
STARTS = 5  # of pcnmf: nine are as good in the mean, three lose up to 2 dB of the worst recording
_STANDS_OUT = 4.0  # times the steady level: of noise, whose magnitudes are Rayleigh's, one in 65,000 does
LEAST_QUIET_S = 0.3  # of a recording that hold no song, for a noise to be known
_TEST_S = 1.0  # of song and of noise that methods are compared on


@dataclass(frozen=True)
class Wanted:
    """How a recording is to be separated.

    `turned`: of pcnmf's two groups the other one is the bird. `adapt`: 0 to 1, how fast a model's bases
    follow the recording. `free`: bases that are learnt from the recording itself beside those of a model.
    """

    method: str = AUTO
    bases: int = 16
    depth: int = DEPTH
    free: int = 0
    adapt: float = 0.0
    floor_db: float = masks.FLOOR_DB
    bird: str = "bird"
    rest: str = "background"
    turned: bool = False
    seed: int = 0
    power: float = masks.POWER

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise unknown_name("method of separation", self.method, METHODS)
        for name, value, least, most in (
            ("bases", self.bases, 1, 1000), ("depth", self.depth, 1, 100), ("free", self.free, 0, 1000),
            ("adapt", self.adapt, 0.0, 1.0), ("floor_db", self.floor_db, -200.0, -10.0),
            ("power", self.power, 0.5, 4.0),
        ):  # fmt: skip
            if not least <= value <= most:
                raise BadValue(f"{name} is {value:g}", f"it lies between {least:g} and {most:g}")
        if not self.bird or not self.rest or self.bird == self.rest:
            raise Mismatch(
                f"the sources are called '{self.bird}' and '{self.rest}'", "they need two different names"
            )


@dataclass(frozen=True)
class Fitted:
    """What separates a recording, and how it was found: facts for the recipe, notes for people."""

    separator: Separator
    facts: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def fit(sample: Sample, wanted: Wanted, model: Bases | None = None) -> Fitted:
    """Fit to a recording, of which `sample` is a part. `UserError` where this method cannot do it."""
    if sample.silent:
        raise NothingLeft("the recording is silent", "there is nothing to separate")
    if model is not None:
        return _with_model(sample, wanted, model)
    if wanted.method == GATE:
        return Fitted(gate_of(sample, wanted), {"method": GATE})
    if wanted.method == PCNMF:
        return _unlabelled(sample, wanted)
    if wanted.method == NMF:
        return Fitted(free_bird(sample, wanted), {"method": NMF})
    return _automatic(sample, wanted)


def gate_of(sample: Sample, wanted: Wanted) -> GateSeparator:
    """The spectral gate. The steady level is that of all frames: at an SNR of 0 dB the stretches that the
    song finder calls quiet say less of sea and rain than the median of everything."""
    return GateSeparator(sample.grid, steady_level(sample.magnitude), (wanted.bird, wanted.rest))


def free_bird(sample: Sample, wanted: Wanted, noise: np.ndarray | None = None) -> BasesSeparator:
    """Noise learnt from the stretches without song (or from `noise`, magnitudes [frames, bins]), the bird
    from what stands out of it.

    Bases that are left free beside those of the noise take the noise's place where they can. So the bird's
    are learnt from what a gate lets through, and then both are held. `UserError` where there is no such
    stretch.
    """
    if noise is None:
        noise = sample.magnitude[sample.quiet]
    if len(noise) * sample.grid.hop_s < LEAST_QUIET_S:
        raise NothingLeft(
            f"no stretch without song was found in {sample.duration_s:.3g} s",
            f"method=nmf learns the noise from {LEAST_QUIET_S} s at least",
            "name a model, or use method=pcnmf or method=gate",
        )
    draw = generator(wanted.seed, "separation")
    known = _learnt(noise, sample.grid, wanted, wanted.rest, draw)
    above = np.maximum(sample.magnitude - np.float32(_STANDS_OUT) * steady_level(noise), 0)
    if not above.any():
        above = sample.magnitude
    bird = _learnt(above, sample.grid, wanted, wanted.bird, draw)
    return _based(sample, wanted, joined([bird, known]))


def learn_source(name: str, sample: Sample, wanted: Wanted, domain: str = MAGNITUDE) -> Bases:
    """The bases of a source, from recordings in which it is heard. `UserError` for more bases than frames."""
    if sample.silent:
        raise NothingLeft(
            f"the recordings of {name} are silent", "a source is learnt from what it sounds like"
        )
    draw = generator(wanted.seed, "separation", name)
    return _learnt(sample.magnitude, sample.grid, wanted, name, draw, domain)


def _learnt(
    magnitude: np.ndarray,
    grid: Grid,
    wanted: Wanted,
    name: str,
    draw: np.random.Generator,
    domain: str = MAGNITUDE,
) -> Bases:
    bins = np.arange(min(grid.bins, int(TOP_HZ / grid.bin_hz) + 1))
    background = masks.background_db(magnitude) if domain == DECIBEL else None
    features = masks.features_of(magnitude, bins, domain, background, masks.scale_of(magnitude) or 1.0)
    target = nmf.stacked(features, wanted.depth)
    weights, _ = nmf.learn(target, wanted.bases, draw, iterations=LEARNING, what=name)
    owner = np.zeros(wanted.bases, np.int64)
    hz = (bins * grid.bin_hz).astype(np.float32)
    window_s, overlap = grid.window / grid.rate_hz, grid.window // grid.hop
    return Bases(weights, (name,), owner, hz, window_s, overlap, wanted.depth, domain)


def _based(sample: Sample, wanted: Wanted, bases: Bases) -> BasesSeparator:
    background = masks.background_db(sample.magnitude) if bases.domain == DECIBEL else None
    scale = masks.scale_of(sample.magnitude)
    return BasesSeparator(sample.grid, bases, scale, background, wanted.floor_db, wanted.power)


def _extended(sample: Sample, wanted: Wanted, known: Bases, name: str, count: int) -> BasesSeparator:
    """Known bases stay, and `count` free ones are learnt from the recording itself: semi-supervised."""
    based = _based(sample, wanted, known)
    target = nmf.stacked(based.features(sample.magnitude), known.depth)
    bins, fixed = known.rows(sample.grid)
    draw = generator(wanted.seed, "separation", "free", name)
    weights, _ = nmf.learn(target, count, draw, iterations=LEARNING, fixed=fixed, what="the recording")
    hz = (bins * sample.grid.bin_hz).astype(np.float32)
    old = replace(known, hz=hz, weights=fixed)
    new = Bases(
        weights[:, fixed.shape[1] :], (name,), np.zeros(count, np.int64), hz, known.window_s, known.overlap,
        known.depth, known.domain,
    )  # fmt: skip
    return replace(based, bases=joined([old, new]))


def _with_model(sample: Sample, wanted: Wanted, model: Bases) -> Fitted:
    if wanted.method not in (AUTO, NMF):
        raise Mismatch(f"method={wanted.method} uses no model", "a model goes with method=nmf")
    model.rows(sample.grid)  # a recording of a rate that it does not fit is refused before anything is learnt
    free = wanted.free or (wanted.bases if len(model.sources) == 1 else 0)
    if wanted.rest in model.sources and free:
        raise Mismatch(
            f"the model has a source '{wanted.rest}' of its own", "what is free needs another name",
            "set rest=other",
        )  # fmt: skip
    ordered = _rest_last(model, wanted.rest)
    based = _extended(sample, wanted, ordered, wanted.rest, free) if free else _based(sample, wanted, ordered)
    facts = {"method": NMF, "model": model.identity, "free": free, "adapt": wanted.adapt}
    if not wanted.adapt:
        return Fitted(based, facts)
    return Fitted(AdaptiveSeparator(based, np.full(based.bases.weights.shape[1], wanted.adapt)), facts)


def _rest_last(model: Bases, rest: str) -> Bases:
    """The same model with the source called `rest` as its last, which takes what no basis speaks of."""
    if rest not in model.sources or model.sources[-1] == rest:
        return model
    order = [*(name for name in model.sources if name != rest), rest]
    owner = np.array([order.index(model.sources[at]) for at in model.owner], np.int64)
    return replace(model, sources=tuple(order), owner=owner)


def _unlabelled(sample: Sample, wanted: Wanted) -> Fitted:
    """PC-NMF: bases of the recording itself, in two groups by when they sound.

    One random start in ten takes the noise for the bird. So bases are learnt from several, each of which
    guesses for itself, and all of them together share out the recording.
    """
    bases = joined([_one_start(sample, wanted, number) for number in range(STARTS)])
    based = _based(sample, wanted, bases)
    weights, activations = _activated(sample, based)
    song = np.zeros(activations.shape[1], bool)
    song[: len(sample.quiet)] = ~sample.quiet
    guess = periodicity.which_is_the_bird(weights, activations, bases.owner, wanted.depth, song)
    # Of the whole, 0 is what the starts took for the bird.
    agree = guess.outside[0] <= guess.outside[1]
    if wanted.turned:
        based = replace(based, bases=replace(bases, owner=1 - bases.owner))
    sure = "" if agree else ", with which the song finder disagrees"
    which = "turned over by hand" if wanted.turned else f"a guess{sure}: turned=true takes the other group"
    facts = {
        "method": PCNMF, "starts": STARTS, "kurtosis": [round(one, 2) for one in guess.kurtosis],
        "flatness": [round(one, 3) for one in guess.flatness],
        "outside_song": [round(one, 3) for one in guess.outside], "bird_group": int(wanted.turned),
        "agree": agree,
    }  # fmt: skip
    return Fitted(based, facts, (f"which of the two sources is the bird is {which}",))


def _one_start(sample: Sample, wanted: Wanted, number: int) -> Bases:
    """Bases from one random start, each a basis of what is taken for the bird or of the rest."""
    draw = generator(wanted.seed, "separation", "pcnmf", number)
    blank = _learnt(sample.magnitude, sample.grid, wanted, wanted.bird, draw)
    weights, activations = _activated(sample, _based(sample, wanted, blank))
    groups = periodicity.two_groups(activations, draw)
    guess = periodicity.which_is_the_bird(weights, activations, groups, wanted.depth)
    owner = np.where(groups == guess.group, 0, 1).astype(np.int64)
    return replace(blank, sources=(wanted.bird, wanted.rest), owner=owner)


def _activated(sample: Sample, based: BasesSeparator) -> tuple[np.ndarray, np.ndarray]:
    """The bases' weights on the recording's grid, and their activations in the recording."""
    weights = based.bases.rows(sample.grid)[1]
    target = nmf.stacked(based.features(sample.magnitude), based.bases.depth)
    return weights, nmf.activate(target, weights, masks.ITERATIONS)


def _automatic(sample: Sample, wanted: Wanted) -> Fitted:
    """The gate or NMF, whichever does better on the recording's own song over its own noise."""
    measured = self_test(sample, wanted)
    if not measured:
        why = "no stretch without song to test on: the gate is used"
        return Fitted(gate_of(sample, wanted), {"method": GATE}, (why,))
    method = max(measured, key=lambda name: measured[name])
    chosen = gate_of(sample, wanted) if method == GATE else free_bird(sample, wanted)
    told = ", ".join(f"{name} {value:.1f} dB" for name, value in measured.items())
    facts = {"method": method, "self_test_db": {name: round(value, 2) for name, value in measured.items()}}
    return Fitted(chosen, facts, (f"of its own song over its own noise at 0 dB the better is taken: {told}",))


def self_test(sample: Sample, wanted: Wanted) -> dict[str, float]:
    """SI-SDR improvement in dB by method, of the loudest song mixed at 0 dB with a quiet stretch of the same
    recording; the other half of what is quiet is what the methods learn from. {} where there is none."""
    grid = sample.grid
    song, noise = _loudest_song(sample), _quiet_sound(sample)
    half = len(noise) // 2
    enough = song is not None and half >= max(LEAST_QUIET_S * grid.rate_hz, grid.window * 2)
    if not enough or song is None:
        return {}
    heard, learnt = noise[:half], noise[half:]
    heard = np.tile(heard, -(-len(song) // half))[: len(song)]
    loud, soft = (float(np.square(one, dtype=np.float64).mean()) for one in (song, heard))
    if not loud > 0 or not soft > 0:
        return {}
    mixed = (song + np.float32((loud / soft) ** 0.5) * heard).astype(np.float32)
    magnitude = np.abs(grid.spectrum(learnt)) * np.float32((loud / soft) ** 0.5)
    test = Sample((Piece(0.0, mixed, grid),), grid)
    ways: dict[str, Separator] = {
        GATE: GateSeparator(grid, steady_level(magnitude), (wanted.bird, wanted.rest))
    }
    if min(len(magnitude), len(test.magnitude)) > wanted.bases:
        ways[NMF] = free_bird(test, wanted, magnitude)
    return {name: improvement_db(stems_of(way, mixed)[0, 0], song, mixed) for name, way in ways.items()}


def _loudest_song(sample: Sample) -> np.ndarray | None:
    """Float32 [n]: a second around the song that stands out most."""
    best: tuple[float, np.ndarray] | None = None
    rate_hz = sample.grid.rate_hz
    for piece in sample.pieces:
        for song in find_songs([(0.0, piece.sound[None])], _TEST_S, 1, rate_hz):
            first = round(song.start_s * rate_hz)
            if best is None or song.score > best[0]:
                best = song.score, piece.sound[first : first + round(_TEST_S * rate_hz)]
    return None if best is None else best[1]


def _quiet_sound(sample: Sample) -> np.ndarray:
    """Float32 [n]: the stretches without song, one after the other."""
    grid, parts = sample.grid, []
    for piece in sample.pieces:
        edges = np.flatnonzero(np.diff(piece.quiet, prepend=False, append=False)).reshape(-1, 2)
        for first, last in edges.tolist():
            parts.append(piece.sound[max(0, first * grid.hop - grid.margin) : last * grid.hop])
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def grid_for(rate_hz: int, model: Bases | None = None, method: str = NMF) -> Grid:
    """The grid of a recording: that of the model, where one is named.

    For pcnmf frames lie 16 ms apart: what it goes by is when sounds come, and its bases reach twice as far.
    """
    if model is not None:
        return model.grid(rate_hz)
    return Grid.of(rate_hz, WINDOW_S, OVERLAP // 2 if method == PCNMF else OVERLAP)
