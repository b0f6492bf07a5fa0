"""How well separation does: birds over sea, insects, city and rain at 0 dB, and over each other.

python -m bench.separation_table DATA                   the table of docs/separation.md
python -m bench.separation_table DATA --only sea city   some of its rows
python -m bench.separation_table DATA --quick           four species

DATA is a folder with birdsong/SPECIES/ and environment/. Bases are learnt from other recordings than those
that are mixed; of the insects and the city there is one recording, whose first half is learnt from and whose
second half is mixed in. What lies below 500 Hz is taken off the birds. SI-SDR improvement in dB: mean and
worst over the species.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.separation_peer import pcnmf_sounds
from birdsd.errors import UserError
from birdsd.sound.audio.levels import in_band
from birdsd.sound.audio.recordings import find_recordings, read
from birdsd.sound.separation.fit import Wanted, fit, free_bird, gate_of, grid_for, learn_source
from birdsd.sound.separation.grid import Grid
from birdsd.sound.separation.measures import improvement_db, si_sdr_db
from birdsd.sound.separation.model import Bases, joined
from birdsd.sound.separation.sample import of_sound, together
from birdsd.sound.separation.separator import Separator, stems_of
from birdsd.sound.song_finder import find_songs

RATE_HZ = 32000
LOWEST_HZ = 500.0  # below is the recorder's rumble, which in one clip is 99% of the energy and no bird
CLIP_S, LONG_S = 4.0, 16.0
_LEARNT_SONGS = 4  # recordings, some 24 s
NOISES = ("sea", "insects", "city", "rain")
_FILES = {"insects": "blanket/summer-night.ogg", "city": "blanket/city.ogg"}
_LOOPS = {"sea": "waves.ogg", "insects": "summer-night.ogg"}  # for PC-NMF: one recording, without a cut
_FOLDERS = {"sea": "esc10/sea_waves", "rain": "esc10/rain"}


@dataclass(frozen=True)
class Mix:
    """A bird and what is mixed into it at 0 dB, float32 [n]; and what the two are learnt from."""

    species: str
    bird: np.ndarray
    other: np.ndarray
    learn_bird: list[np.ndarray]
    learn_other: list[np.ndarray]

    @property
    def mixed(self) -> np.ndarray:
        return self.bird + self.other


class Data:
    """Recordings of birds and surroundings at one rate."""

    def __init__(self, folder: Path, species: int = 10) -> None:
        self.folder = folder
        self.species = sorted(one.name for one in (folder / "birdsong").iterdir() if one.is_dir())[:species]

    def bird(self, species: str, number: int) -> np.ndarray:
        files = find_recordings(self.folder / "birdsong" / species)
        return in_band(read(files[number % len(files)], RATE_HZ)[0], RATE_HZ, LOWEST_HZ, np.inf)

    def others(self, species: str, tested: set[int]) -> list[np.ndarray]:
        """The recordings of a species that are not tested."""
        count = len(find_recordings(self.folder / "birdsong" / species))
        return [self.bird(species, number) for number in range(count) if number not in tested][:_LEARNT_SONGS]

    def noise(self, name: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """(to learn from, to mix in): other recordings, or the two halves of the one that there is."""
        place = self.folder / "environment"
        if name in _FILES:
            whole = read(place / _FILES[name], RATE_HZ)[0]
            half = len(whole) // 2
            return [whole[:half]], [whole[half:]]
        files = find_recordings(place / _FOLDERS[name])
        # The name says which of ESC's five folds a clip is in: clips of one recording share a fold.
        learnt = [path for path in files if path.name[0] in "123"]
        mixed = [path for path in files if path.name[0] in "45"]
        # Two seconds of each, as `learn.SOURCE=` takes them: rain sounds different on every roof.
        heard = [read(path, RATE_HZ, start_s=1.5, duration_s=2.0)[0] for path in learnt]
        return heard, [read(path, RATE_HZ)[0] for path in mixed]


def loudest(sound: np.ndarray, seconds: float) -> np.ndarray:
    """The stretch around the song that stands out most."""
    found = find_songs([(0.0, sound[None])], seconds, 1, RATE_HZ)
    first = round(found[0].start_s * RATE_HZ) if found else 0
    return sound[first : first + round(seconds * RATE_HZ)]


def at_0_db(bird: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The other one as loud as the bird, and as long."""
    other = np.tile(other, -(-len(bird) // len(other)))[: len(bird)]
    ratio = np.sqrt(np.mean(bird**2, dtype=np.float64) / np.mean(other**2, dtype=np.float64))
    return (other * ratio).astype(np.float32)


def noise_mixes(data: Data, noise: str) -> Iterator[Mix]:
    """A mix for each species."""
    learnt, tested = data.noise(noise)
    for number, species in enumerate(data.species):
        bird = loudest(data.bird(species, 0), CLIP_S)
        other = tested[number % len(tested)]
        shift = 3 * number * RATE_HZ % max(1, len(other) - len(bird) + 1)
        yield Mix(species, bird, at_0_db(bird, other[shift:]), data.others(species, {0}), learnt)


def bird_mixes(data: Data) -> Iterator[Mix]:
    """Each species over the next one."""
    for number, species in enumerate(data.species):
        other = data.species[(number + 1) % len(data.species)]
        one, two = (loudest(data.bird(name, 0), CLIP_S) for name in (species, other))
        yield Mix(species, one, at_0_db(one, two), data.others(species, {0}), data.others(other, {0}))


def learnt_bases(name: str, sounds: list[np.ndarray], wanted: Wanted) -> Bases:
    grid = Grid.of(RATE_HZ)
    return learn_source(name, together([of_sound(one, grid) for one in sounds]), wanted)


def supervised(mix: Mix, wanted: Wanted) -> Separator:
    """Both learnt; the noise once for all mixtures with it."""
    key = id(mix.learn_other)
    if key not in _learnt:
        _learnt[key] = mix.learn_other, learnt_bases("other", mix.learn_other, wanted)
    model = joined([learnt_bases("bird", mix.learn_bird, wanted), _learnt[key][1]])
    return fit(of_sound(mix.mixed, Grid.of(RATE_HZ)), wanted, model).separator


_learnt: dict[int, tuple[list[np.ndarray], Bases]] = {}


def itself(mix: Mix, wanted: Wanted) -> Separator:
    """Nothing but the mixture: its stretches without song are the noise; the gate where there are none."""
    sample = of_sound(mix.mixed, Grid.of(RATE_HZ))
    try:
        return free_bird(sample, wanted)
    except UserError:
        return gate_of(sample, wanted)


def gated(mix: Mix, wanted: Wanted) -> Separator:
    sample = of_sound(mix.mixed, Grid.of(RATE_HZ))
    return gate_of(sample, wanted)


WAYS: dict[str, Callable[[Mix, Wanted], Separator]] = {
    "gate": gated, "nmf of itself": itself, "both learnt": supervised,
}  # fmt: skip


def oracle(mix: Mix) -> float:
    """What a ratio mask of the true magnitudes reaches."""
    grid = Grid.of(RATE_HZ)
    spectrum = grid.spectrum(mix.mixed)
    bird, other = (np.abs(grid.spectrum(one)) for one in (mix.bird, mix.other))
    return improvement_db(
        grid.waveform(spectrum * (bird / (bird + other + 1e-12)), len(mix.bird)), mix.bird, mix.mixed
    )


def measured(way: Callable[[Mix, Wanted], Separator], mix: Mix, wanted: Wanted) -> tuple[float, float]:
    """SI-SDR improvement of the bird, and by how much the stems miss the mixture at most."""
    stems = stems_of(way(mix, wanted), mix.mixed)
    missed = float(np.abs(stems.astype(np.float64).sum(axis=0)[0] - mix.mixed).max())
    return improvement_db(stems[0, 0], mix.bird, mix.mixed), missed


def unlabelled_rows(data: Data, noise: str, seeds: int) -> dict[str, list[float]]:
    """PC-NMF on 16 s: ours as guessed, the better of the two groups, and soundscape_IR's."""
    whole = read(data.folder / "environment" / "blanket" / _LOOPS[noise], RATE_HZ)[0]
    found: dict[str, list[float]] = {"as guessed": [], "better group": [], "soundscape_IR": []}
    for number, species in enumerate(data.species):
        bird = np.concatenate([data.bird(species, at) for at in range(3)])[: round(LONG_S * RATE_HZ)]
        shift = 3 * number * RATE_HZ % max(1, len(whole) - len(bird))
        mixed = bird + at_0_db(bird, whole[shift:])
        for seed in range(seeds):
            wanted = Wanted("pcnmf", bases=10, seed=seed)
            separator = fit(of_sound(mixed, grid_for(RATE_HZ, method="pcnmf")), wanted).separator
            stems = stems_of(separator, mixed)[:, 0]
            before = si_sdr_db(mixed, bird)
            gains = [si_sdr_db(stem, bird) - before for stem in stems]
            found["as guessed"].append(gains[0])
            found["better group"].append(max(gains))
            published, masked = pcnmf_sounds(mixed, RATE_HZ, seed=seed)
            found["soundscape_IR"].append(max(si_sdr_db(one, bird) - before for one in (*published, *masked)))
    return found


def line(what: str, values: list[float]) -> str:
    return f"{what:44} {np.mean(values):6.1f} {min(values):6.1f}   of {len(values)}"


def main(words: list[str] | None = None) -> int:
    """Measure the ways of separation that the command line names, and print their table."""
    parser = argparse.ArgumentParser(
        "bench.separation_table", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", nargs="*", default=[*NOISES, "bird", "pcnmf"])
    parser.add_argument("--ways", nargs="*", default=[*WAYS], choices=[*WAYS])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--depth", type=int, default=Wanted().depth)
    parser.add_argument("--bases", type=int, default=Wanted().bases)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(words)
    data, rows = Data(options.data, 4 if options.quick else 10), {}
    wanted = Wanted("nmf", bases=options.bases, depth=options.depth)
    start, most = time.perf_counter(), 0.0
    print(f"{'SI-SDR improvement, dB':44} {'mean':>6} {'worst':>6}", flush=True)
    for name in [one for one in options.only if one != "pcnmf"]:
        mixes = list(bird_mixes(data) if name == "bird" else noise_mixes(data, name))
        for title, way in ((one, WAYS[one]) for one in options.ways):
            results = [measured(way, mix, wanted) for mix in mixes]
            rows[f"{name}: {title}"] = [gain for gain, _ in results]
            most = max([most, *(missed for _, missed in results)])
            print(line(f"{name}: {title}", rows[f"{name}: {title}"]), flush=True)
        rows[f"{name}: oracle"] = [oracle(mix) for mix in mixes]
        print(line(f"{name}: oracle", rows[f"{name}: oracle"]), flush=True)
    for name in ("sea", "insects") if "pcnmf" in options.only else ():
        for title, values in unlabelled_rows(data, name, options.seeds).items():
            rows[f"pcnmf, {name}: {title}"] = values
            print(line(f"pcnmf, {name}: {title}", values), flush=True)
    print(f"stems miss the mixture by {most:.1e} at most; {time.perf_counter() - start:.0f} s")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
