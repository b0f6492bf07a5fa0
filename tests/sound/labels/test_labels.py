"""From folders and tables to labelled recordings: nothing lost in silence."""

from __future__ import annotations

import os

import pytest

from birdsd.errors import NotFound, NothingLeft
from birdsd.sound.labels.annotation import Label, Recording, clip_labels
from birdsd.sound.labels.load import load_recordings
from birdsd.sound.species.names import tidy_name
from tests.support.errors import refuses
from tests.support.sound_makers import save, tone, truncate


def by_name(found):
    return {recording.path.name: recording for recording in found.recordings}


def reasons(found):
    return {problem.path.name: problem.reason for problem in found.problems}


def put(folder, *names, duration_s=0.2):
    for name in names:
        save(folder / name, tone(duration_s, 8000), 8000)
    return folder


def test_folders_name_species_several_or_none(tmp_path):
    put(
        tmp_path, "black_phoebe/a.wav", "House Finch,black_phoebe/b.wav", "noise/c.wav", "Other/d.wav",
        "Sayornis nigricans_Black Phoebe/site 1/e.wav", "environment/rain/f.wav",
    )  # fmt: skip
    found = load_recordings(tmp_path)
    assert {name: recording.species for name, recording in by_name(found).items()} == {
        "a.wav": ("Black Phoebe",),
        "b.wav": ("Black Phoebe", "House Finch"),
        "c.wav": (),
        "d.wav": (),
        "e.wav": ("Black Phoebe",),
    }
    assert found.species == ("Black Phoebe", "House Finch")
    assert found.problems == [] and all(recording.weak for recording in found.recordings)


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("dark_eyed_junco", "Dark Eyed Junco"), ("cassin's_finch", "Cassin's Finch"), ("AMRO", "AMRO"),
        ("McKay's_Bunting", "McKay's Bunting"), ("  two  spaces ", "Two Spaces"),
    ],
)  # fmt: skip
def test_folder_names_are_tidied(folder, name):
    assert tidy_name(folder) == name


@pytest.mark.parametrize("where", [".", ".."])
def test_a_manifest_in_the_folder_or_beside_it_gives_names_ids_and_licences(tmp_path, where):
    root = put(tmp_path / "birds", "black_phoebe/x.wav", "black_phoebe/y.wav")
    prefix = "" if where == "." else "birds/"
    (root / where / "manifest.csv").write_text(
        "path,label,recording_id,licence,attribution\n"
        f'{prefix}black_phoebe/x.wav,Say-Phoebe!,XC7,CC BY,"A, B"\n'
        "elsewhere/z.wav,Other Bird,9,,\n"
    )
    found = load_recordings(root)
    x = by_name(found)["x.wav"]
    assert (x.species, x.recording_id, x.licence, x.recordist) == (("Say-Phoebe!",), "XC7", "CC BY", "A, B")
    if where == "..":  # a table of a larger set: what it does not list keeps its folder's name
        assert by_name(found)["y.wav"].species == ("Black Phoebe",) and found.problems == []
    else:  # the folder's own table: what it does not list has no label, what it lists must be there
        assert [r.path.name for r in found.unlabelled] == ["y.wav"]
        assert "z.wav'" in reasons(found)["manifest.csv"]


def test_a_named_table_with_boxes_missing_files_and_files_from_elsewhere(tmp_path):
    root = put(tmp_path / "audio", "deep/a.wav", "b.wav", "c.wav", duration_s=2.0)
    put(tmp_path, "outside.wav")
    table = tmp_path / "boxes.csv"
    table.write_text(
        "file,species,start_time,end_time,type\n"
        "C:\\old\\deep\\a.wav,Wren,0.5,1.0,song\n"
        "/data/2019/a.wav,Robin,1.0,1.5,call\n"
        "audio/b.wav,noise,,,\n"
        "gone.wav,Wren,0,1,\n"
        "outside.wav,Wren,0,1,\n"
    )
    found = load_recordings(root, table)
    a, b = by_name(found)["a.wav"], by_name(found)["b.wav"]
    assert [label.label for label in a.labels] == ["Wren", "Robin"] and not a.weak
    assert a.labels[0].sound_type == "song"
    assert b.labels == ()
    assert [r.path.name for r in found.unlabelled] == ["c.wav"]
    (gone,) = [p.reason for p in found.problems if p.path == table]
    assert gone.startswith("row 5: ") and "'gone.wav'" in gone


def test_a_file_gone_from_a_folder_that_is_there_is_not_replaced_by_its_namesake(tmp_path):
    put(tmp_path, "b/x.wav", "b/y.wav")
    (tmp_path / "a").mkdir()
    (tmp_path / "labels.csv").write_text("path,label\na/x.wav,Wren\nb/y.wav,Robin\n")
    found = load_recordings(tmp_path)
    assert list(by_name(found)) == ["y.wav"]
    assert "a/x.wav'" in reasons(found)["labels.csv"]


def test_a_table_may_be_the_source_and_a_single_file_too(tmp_path):
    put(tmp_path, "a.wav", "b.wav")
    (tmp_path / "birds.csv").write_text("path,label\na.wav,Wren\nb.wav,Robin\n")
    assert load_recordings(tmp_path / "birds.csv").species == ("Robin", "Wren")
    (tmp_path / "one.csv").write_text("Start (s),End (s),Common name\n0.0,0.1,Wren\n")
    found = load_recordings(tmp_path / "a.wav", tmp_path / "one.csv")
    assert found.recordings[0].labels == (Label("Wren", 0.0, 0.1),)
    with refuses(("one.csv", "path"), kind=NotFound):
        load_recordings(tmp_path, tmp_path / "one.csv")


@pytest.mark.parametrize(
    ("text", "kind", "named", "offer"),
    [
        ("path,lable\na.wav,Wren\n", NotFound, "path, lable", "'label' by 'lable'"),
        ("path,label\nq.wav,Wren\n", NothingLeft, "'q.wav'", ""),
        ("", NotFound, "(none)", "'species'"),
    ],
)
def test_a_named_table_that_does_not_serve_is_an_error(tmp_path, text, kind, named, offer):
    put(tmp_path, "a.wav")
    (tmp_path / "t.csv").write_text(text)
    with refuses(("t.csv", named), offer, kind=kind):
        load_recordings(tmp_path, tmp_path / "t.csv")
    with refuses("nowhere.csv", kind=NotFound):
        load_recordings(tmp_path, tmp_path / "nowhere.csv")


@pytest.mark.parametrize(
    ("name", "text"), [("labels.csv", "a,b\n1,2\n"), ("metadata.json", "{}"), ("manifest.parquet", "x")]
)
def test_a_table_that_was_only_found_is_a_problem_and_folders_name_the_species(tmp_path, name, text):
    put(tmp_path, "black_phoebe/a.wav")
    (tmp_path / name).write_text(text)
    found = load_recordings(tmp_path)
    assert found.species == ("Black Phoebe",) and name in reasons(found)


def test_annotations_beside_the_files(tmp_path):
    put(
        tmp_path, "s/raven.wav", "s/audacity.wav", "s/header.wav", "s/notes.wav", "s/none.wav", duration_s=2.0
    )
    header = "Selection\tBegin Time (s)\tEnd Time (s)\tSpecies\n"
    (tmp_path / "s/raven.Table.1.selections.txt").write_text(header + "1\t0.5\t1.0\tWren\n")
    (tmp_path / "s/raven.txt").write_text("0\t1\tignored, because a Raven table is there\n")
    (tmp_path / "s/audacity.txt").write_text("0.5\t1.0\tRobin\n\\\t2000\t3000\n")
    (tmp_path / "s/header.Table.1.selections.txt").write_text(header)
    (tmp_path / "s/notes.txt").write_text("a windy morning\n")
    found = load_recordings(tmp_path)
    assert {name: r.species for name, r in by_name(found).items()} == {
        "raven.wav": ("Wren",),
        "audacity.wav": ("Robin",),
        "header.wav": (),
        "notes.wav": ("S",),
        "none.wav": ("S",),
    }
    assert not by_name(found)["raven.wav"].weak and by_name(found)["notes.wav"].weak
    assert reasons(found)["header.Table.1.selections.txt"].code == "no-box"
    assert "Raven" in reasons(found)["notes.txt"]


def test_boxes_beat_the_whole_file_but_its_licence_stays(tmp_path):
    put(tmp_path, "a.wav", duration_s=2.0)
    (tmp_path / "a.txt").write_text("0.5\t1.0\tRobin\n")
    (tmp_path / "labels.csv").write_text("path,label,licence\na.wav,annotated,CC0\n")
    (recording,) = load_recordings(tmp_path).recordings
    assert recording.species == ("Robin",) and recording.licence == "CC0"


def test_a_folder_of_annotations_and_a_raven_table_over_several_files(tmp_path):
    root = put(tmp_path / "audio", "a.wav", "b.wav", duration_s=2.0)
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "a.Table.1.selections.txt").write_text("Begin Time (s)\tEnd Time (s)\tSpecies\n0\t1\tWren\n")
    (notes / "z.txt").write_text("0\t1\tRobin\n")
    found = load_recordings(root, notes)
    assert found.species == ("Wren",)
    assert reasons(found)["z.txt"].code == "belongs-to-no-recording"
    table = tmp_path / "all.txt"
    table.write_text(
        "Begin Time (s)\tEnd Time (s)\tBegin File\tFile Offset (s)\tSpecies\n"
        "0\t1\ta.wav\t0\tWren\n60\t61\tb.wav\t0.5\tRobin\n70\t71\tq.wav\t0.5\tRobin\n"
    )
    found = load_recordings(root, table)
    assert by_name(found)["b.wav"].labels[0].start_s == 0.5
    assert "'q.wav'" in reasons(found)["all.txt"]


def test_xenocanto_metadata_in_the_folder(tmp_path):
    put(tmp_path, "XC1234 - Wren.wav", "5678.wav")
    (tmp_path / "metadata.json").write_text(
        '{"recordings": [{"id": "1234", "en": "Wren", "type": "song", "rec": "P"},'
        ' {"id": "5678", "en": "Robin"}]}'
    )
    found = by_name(load_recordings(tmp_path))
    wren = found["XC1234 - Wren.wav"]
    assert (wren.recording_id, wren.species, wren.recordist, wren.sound_type) == (
        "XC1234",
        ("Wren",),
        "P",
        "song",
    )
    assert found["5678.wav"].recording_id == "XC5678"


def test_labels_outside_the_recording_are_cut_or_left_out_and_reported(tmp_path):
    put(tmp_path, "a.wav", "b.wav", duration_s=2.0)
    (tmp_path / "a.txt").write_text(
        "1.5\t2.03\trounded\n1.0\t9.0\tlong\n5\t6\toutside\n1.0\t0.5\tbackwards\n-1\t0.5\tearly\n0\t1\t\n"
    )
    (tmp_path / "b.txt").write_text("7\t8\tWren\n")
    found = load_recordings(tmp_path)
    labels = {label.label: (label.start_s, label.end_s) for label in by_name(found)["a.wav"].labels}
    assert labels == {"Rounded": (1.5, 2.0), "Long": (1.0, 2.0), "Early": (0.0, 0.5)}
    told = " ".join(problem.reason for problem in found.problems if problem.path.name == "a.wav")
    for word in ("'Long'", "'Outside'", "'Backwards'", "'Early'", "no name"):
        assert word in told
    assert "'Rounded'" not in told
    # Boxes that all lie outside do not make it a recording without birds.
    assert [r.path.name for r in found.unlabelled] == ["b.wav"]


def test_what_cannot_be_read_is_named_and_the_rest_goes_on(tmp_path):
    put(tmp_path, "wren/good.wav", "wren/cut.wav")
    truncate(tmp_path / "wren/cut.wav", 0.5)
    (tmp_path / "wren/empty.wav").touch()
    (tmp_path / "wren/text.wav").write_text("not sound " * 50)
    (tmp_path / "wren/phone.m4a").write_bytes(b"\0" * 50)
    os.symlink("/nowhere/x.wav", tmp_path / "wren/dangling.wav")
    found = load_recordings(tmp_path)
    assert list(by_name(found)) == ["good.wav"]
    assert set(reasons(found)) == {"cut.wav", "empty.wav", "text.wav", "phone.m4a", "dangling.wav"}
    assert "cut short" in reasons(found)["cut.wav"]


def test_only_when_nothing_is_left_it_is_an_error(tmp_path):
    with refuses("nowhere", kind=NotFound):
        load_recordings(tmp_path / "nowhere")
    with refuses(str(tmp_path), "flac", kind=NothingLeft):
        load_recordings(tmp_path)
    (tmp_path / "wren").mkdir()
    (tmp_path / "wren/empty.wav").touch()
    with refuses("empty.wav", kind=NothingLeft):
        load_recordings(tmp_path)
    put(tmp_path, "loose.wav")
    with refuses("loose.wav", kind=NothingLeft):
        load_recordings(tmp_path)
    assert len(load_recordings(tmp_path, require_labels=False).unlabelled) == 1


def test_hostile_names_stay_names(tmp_path):
    names = ["-rf", "a b'\"$(x)", "ünïcødé 鸟", "new\nline", "b..", "=1+2"]
    put(tmp_path, *(f"{name}/{name}.wav" for name in names))
    found = load_recordings(tmp_path)
    assert len(found.recordings) == len(names) and found.problems == []
    assert all("\n" not in species for species in found.species)
    table = tmp_path / "t.csv"
    table.write_text(
        'path,label\n"../../etc/passwd",Wren\n"\0",Wren\n"' + "x" * 5000 + '",Wren\n"-rf/-rf.wav",Wren\n'
    )
    assert load_recordings(tmp_path, table).species == ("Wren",)


def test_a_name_that_is_no_text_is_reported(tmp_path):
    put(tmp_path, "wren/a.wav")
    try:
        os.rename(os.fsencode(tmp_path / "wren/a.wav"), os.fsencode(tmp_path / "wren") + b"/\xff\xfe.wav")
    except OSError:
        pytest.skip("this file system takes no such names")
    put(tmp_path, "wren/b.wav")
    found = load_recordings(tmp_path)
    assert list(by_name(found)) == ["b.wav"]
    assert "UTF-8" in found.problems[0].reason
    str(found.problems[0].path).encode()  # can be written into a report


def test_recording_ids_are_catalogue_numbers_stems_or_paths(tmp_path):
    put(
        tmp_path,
        "wren/001.wav",
        "robin/001.wav",
        "robin/002.wav",
        "wren/XC77_part1.wav",
        "wren/XC77_part2.wav",
    )
    ids = [recording.recording_id for recording in load_recordings(tmp_path).recordings]
    assert ids == ["robin/001", "002", "wren/001", "XC77", "XC77"]


RECORDING = Recording(
    path=None,  # type: ignore[arg-type]
    recording_id="r",
    labels=(Label("a", 1.0, 2.0), Label("b", 2.9, 3.05), Label("c"), Label("d", 6.0, 6.0)),
    duration_s=10.0,
)


@pytest.mark.parametrize(
    ("start_s", "duration_s", "names"),
    [
        (0.0, 1.0, ["c"]),
        (0.0, 1.24, ["c"]),
        (0.0, 1.25, ["a", "c"]),
        (1.75, 1.0, ["a", "c"]),
        (1.76, 1.0, ["c"]),
        (2.8, 0.5, ["b", "c"]),  # all of a short box counts
        (3.0, 1.0, ["c"]),  # a third of it does not
        (5.0, 2.0, ["c", "d"]),  # a point label
    ],
)
def test_boxes_become_clip_labels_with_a_minimum_overlap(start_s, duration_s, names):
    found = clip_labels(RECORDING, start_s, duration_s, 0.25)
    assert [label.label for label in found] == names
    for label in found:
        assert label.start_s is None or 0.0 <= label.start_s <= label.end_s <= duration_s


def test_clip_times_are_relative_to_the_clip():
    assert clip_labels(RECORDING, 1.5, 1.0)[0] == Label("a", 0.0, 0.5)


def test_a_row_that_stands_twice_counts_once(tmp_path):
    put(tmp_path, "a.wav")
    (tmp_path / "labels.csv").write_text("path,label\na.wav,Wren\na.wav,Robin\na.wav,Wren\n")
    (recording,) = load_recordings(tmp_path).recordings
    assert recording.labels == (Label("Wren"), Label("Robin"))


@pytest.mark.data
def test_real_layouts(data_folder):
    found = load_recordings(data_folder / "birdsong")
    assert len(found.recordings) == 80 and found.problems == [] and len(found.species) == 10
    assert {"Dark-eyed Junco", "Townsend's Warbler"} <= set(found.species)
    assert all(
        r.licence.startswith("CC BY") and r.recordist and r.recording_id[:2] == "XC" for r in found.recordings
    )
    spinetail = load_recordings(data_folder / "soundscapes" / "scikit_maad" / "spinetail.wav")
    assert spinetail.species == ("CRER", "SP") and len(spinetail.recordings[0].labels) == 18
    birdnet = data_folder / "soundscapes" / "birdnet"
    predicted = load_recordings(birdnet, birdnet / "birdnet_v2.4_published_predictions.csv")
    assert "Black-capped Chickadee" in predicted.species
