"""Only some species of a folder: what stays, what goes, and what a set remembers of the choice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from birdsd.errors import Mismatch, NothingLeft, UnknownName
from birdsd.files import read_json
from birdsd.shards.index import ShardIndex
from birdsd.shards.prepare.plan import choose_species
from birdsd.shards.prepare.prepare import PrepareReport, prepare
from birdsd.shards.reader import ShardReader
from birdsd.sound.labels.annotation import Label, LabelledSet, Recording
from tests.support.errors import refuses
from tests.support.shard_makers import CODEC, data_config


def run(tones: Path, shards: Path, **changes: Any) -> PrepareReport:
    return prepare(data_config(tones, shards, **changes), CODEC, processes=1, progress=False)


def splits_of(folder: Path) -> dict[str, str]:
    """The split of every recording."""
    index = ShardIndex.open(folder)
    return {
        sample.metadata["recording_id"]: split
        for split in index.splits
        for sample in ShardReader(index, split, want=("metadata",)).read_many(range(index.count(split)))
    }


def mixed(*species: tuple[str, ...]) -> LabelledSet:
    return LabelledSet(
        [Recording(Path(f"{i}"), f"{i}", tuple(Label(n) for n in names)) for i, names in enumerate(species)]
    )


def kept(found: LabelledSet, **choice: list[str]) -> list[str]:
    chosen = choose_species(found, data_config(Path("x"), Path("y"), **choice))
    return [recording.recording_id for recording in chosen.recordings]


def test_two_sets_share_out_a_folder_with_the_splits_of_the_whole(tones: Path, tmp_path: Path) -> None:
    run(tones, tmp_path / "all")
    run(tones, tmp_path / "some", species=["species 1"])  # no regard to case
    run(tones, tmp_path / "rest", without_species=["Species 1"])
    assert ShardIndex.open(tmp_path / "some").species == ("Species 1",)
    assert ShardIndex.open(tmp_path / "rest").species == ("Species 0", "Species 2")
    some, rest = splits_of(tmp_path / "some"), splits_of(tmp_path / "rest")
    assert not some.keys() & rest.keys() and len(some) == 6
    assert {**some, **rest} == splits_of(tmp_path / "all"), "a recording is held out of all sets or of none"


def test_the_choice_counts_and_its_order_does_not(tones: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    run(tones, shards, species=["Species 0", "Species 1"])
    assert run(tones, shards, species=["species 1", "Species 0"]).nothing_to_do
    for other in ({"species": ["Species 0"]}, {}, {"without_species": ["Species 2"]}):
        with refuses("data.species was ['species 0'", kind=Mismatch):
            run(tones, shards, **other)
    # A set that nobody chose from says nothing of it, like those of before one could choose.
    run(tones, tmp_path / "all")
    settings = read_json(tmp_path / "all" / "prepare.json")["settings"]
    assert not {"species", "without_species"} & settings.keys()


def test_an_unknown_species_is_refused_with_the_nearest(tones: Path, tmp_path: Path) -> None:
    valid = "Species 0, Species 1, Species 2"
    for key in ("species", "without_species"):
        with refuses("'Spcies 1'", valid, "'Species 1'", kind=UnknownName):
            run(tones, tmp_path / "shards", **{key: ["Spcies 1"]})
    assert not (tmp_path / "shards").exists()


def test_a_choice_that_leaves_nothing_or_contradicts_itself_is_refused() -> None:
    found = mixed(("A",), ("B",))
    with refuses("data.without_species=[A, B]", kind=NothingLeft):
        kept(found, without_species=["A", "B"])
    with refuses(("data.species", "data.without_species", " A"), kind=Mismatch):
        kept(found, species=["A"], without_species=["a"])


def test_recordings_of_several_species_go_to_one_side() -> None:
    found = mixed(("A",), ("A", "B"), ("B",), (), ("b",))
    assert kept(found) == ["0", "1", "2", "3", "4"]
    assert kept(found, species=["B"]) == ["1", "2", "4"], "both ways in which it is written"
    assert kept(found, without_species=["B"]) == ["0", "3"]
    assert kept(found, species=["A"], without_species=["B"]) == ["0"]
