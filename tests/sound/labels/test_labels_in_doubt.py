"""Where a label file leaves doubt: no bird is invented, none is denied, and nothing goes without a word."""

from __future__ import annotations

import pytest

from birdsd.errors import Damaged, NotFound, NothingLeft
from birdsd.sound.labels.annotation import MISSING_FILE, UNREADABLE
from birdsd.sound.labels.load import load_recordings
from birdsd.sound.labels.recording_labels import UNREADABLE_ROW
from tests.sound.labels.test_label_kinds import adds_up, boxes, put, raven, told
from tests.support.errors import refuses
from tests.support.remarks import codes as codes_of
from tests.support.remarks import remarked


def unknown(found, name):
    recording = next(r for r in found.recordings if r.path.name == name)
    return [(label.label, label.start_s, label.end_s) for label in recording.unknown]


def test_a_row_that_cannot_be_read_makes_no_file_birdless(tmp_path):
    put(tmp_path, "a.flac", "b.flac")
    (tmp_path / "a.txt").write_text(
        raven("1\tSpectrogram 1\t1\t0:01.0x\t1.4\t500\t3500\tOwl", more="\tSpecies")
    )
    (tmp_path / "labels.csv").write_text("file,start,end,label\nb.flac,x,1.4,Owl\nb.flac,4,4.5,noise\n")
    with refuses("labels.csv: row 2: the start is 'x'", kind=NothingLeft):
        load_recordings(tmp_path)
    (tmp_path / "labels.csv").write_text("file,start,end,label\nb.flac,x,1.4,Owl\nb.flac,4,4.5,Wren\n")
    found = adds_up(load_recordings(tmp_path, require_labels=False))
    assert boxes(found) == {"b.flac": [(4.0, "Wren")]}
    assert unknown(found, "b.flac") == [(UNREADABLE_ROW, None, None)]


@pytest.mark.parametrize("second", ["3.5\t4\t", "4\t3.5\tWren", "3.5\t4\tWren?"])
def test_a_box_that_is_left_out_is_a_place_of_doubt(tmp_path, second):
    put(tmp_path, "a.flac")
    (tmp_path / "a.txt").write_text(f"0.5\t1\tOwl\n{second}\n")
    found = adds_up(load_recordings(tmp_path))
    assert boxes(found) == {"a.flac": [(0.5, "Owl")]}
    assert [(start, end) for _, start, end in unknown(found, "a.flac")] == [(3.5, 4.0)]


def test_a_box_without_a_bird_speaks_for_its_stretch_alone(tmp_path):
    put(tmp_path, "a.flac", "Great Tit/b.flac", "Great Tit/c.flac", "d.flac")
    (tmp_path / "a.txt").write_text("1.1\t2.3\twind\n")
    (tmp_path / "Great Tit/b.txt").write_text("1.0\t1.4\tnoise\n")
    (tmp_path / "Great Tit/c.txt").write_text("2.0\t2.5\t?\n")
    (tmp_path / "d.txt").write_text("0\t3\tnocall\n3\t6\tnocall\n")
    found = adds_up(load_recordings(tmp_path))
    a, b, c, d = sorted(found.recordings, key=lambda r: r.path.name)
    assert a.labels == () and not a.weak and [box.start_s for box in a.silences] == [1.1]
    assert [(start, end) for _, start, end in unknown(found, "a.flac")] == [(0.0, 1.1), (2.3, 6.0)]
    assert b.species == c.species == ("Great Tit",) and b.weak and c.weak
    assert unknown(found, "b.flac") == [("noise", 1.0, 1.4)] and unknown(found, "c.flac") == [("?", 2.0, 2.5)]
    assert d.labels == d.unknown == () and d.weak and d.no_bird_rows == 2  # all of it is without birds


def test_label_files_find_recordings_of_one_name_by_their_folders(tmp_path):
    root = put(tmp_path / "rec", "siteA/0600.flac", "siteB/0600.flac", "siteC/0600.flac")
    for site, text in (("siteA", "0.5\t1.0\tOwl\n"), ("siteB", "2.0\t2.5\tTrogon\n")):
        (tmp_path / "lab" / site).mkdir(parents=True)
        (tmp_path / "lab" / site / "0600.txt").write_text(text)
    found = adds_up(load_recordings(root, tmp_path / "lab"))
    assert {r.path.parent.name: r.species for r in found.recordings} == {
        "siteA": ("Owl",),
        "siteB": ("Trogon",),
    }
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat/0600.txt").write_text("0.5\t1.0\tOwl\n")
    with refuses((str(tmp_path / "flat"), "any of 3"), kind=NothingLeft):
        load_recordings(root, tmp_path / "flat")


def test_rows_find_recordings_of_one_name_by_their_folders(tmp_path):
    root = put(tmp_path / "rec", "siteA/0600.flac", "siteB/0600.flac")
    rows = [
        f"{n}\tSpectrogram 1\t1\t{n}\t{n}.4\t500\t3500\tD:\\x\\{site}\\0600.wav\t{n}.0\t{name}"
        for n, site, name in ((1, "siteA", "Owl"), (2, "siteB", "Trogon"))
    ]
    table = raven(*rows, more="\tBegin Path\tFile Offset (s)\tSpecies")
    (tmp_path / "t.txt").write_text(table)
    (root / "siteA/0600.Table.1.selections.txt").write_text(table)
    for labels in (tmp_path / "t.txt", None):
        found = load_recordings(root, labels)
        assert {r.path.parent.name: r.species for r in found.recordings} == {
            "siteA": ("Owl",),
            "siteB": ("Trogon",),
        }


def test_the_longest_name_that_fits_a_label_file_counts(tmp_path):
    put(tmp_path, "S1.flac", "S1.1.flac")
    (tmp_path / "S1.txt").write_text("0.5\t1\tOwl\n")
    (tmp_path / "S1.1.txt").write_text("2\t2.5\tTrogon\n")
    assert boxes(adds_up(load_recordings(tmp_path))) == {
        "S1.flac": [(0.5, "Owl")],
        "S1.1.flac": [(2.0, "Trogon")],
    }
    (tmp_path / "S1.1.Table.1.selections.txt").write_text(
        raven("1\tS\t1\t3\t4\t500\t3500\tWren", more="\tSpecies")
    )
    assert boxes(load_recordings(tmp_path))["S1.1.flac"] == [(3.0, "Wren")]


def test_birdnets_labels_for_audacity_are_one_bird(tmp_path):
    put(tmp_path, "a.flac")
    (tmp_path / "a.BirdNET.results.txt").write_text("0.0\t3.0\tParus major, Great Tit\t0.8765\n")
    assert adds_up(load_recordings(tmp_path)).species == ("Great Tit",)


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("file,label\na.flac,1\nb.flac,0\n", {}),
        ("file,label\na.flac,True\nb.flac,False\n", {}),
        ("file,species,present\na.flac,Owl,1\nb.flac,Owl,False\n", {"a.flac": ("Owl",)}),
        ("file,species,count\na.flac,Owl,3\nb.flac,Owl,0\n", {"a.flac": ("Owl",)}),
        ("itemid,hasbird\na,1\nb,0\n", {"b.flac": ()}),
        ("file,start_time,end_time,Great Tit,Wren\na.flac,0,3,1,0\nb.flac,0,3,True,True\n",
         {"a.flac": ("Great Tit",), "b.flac": ("Great Tit", "Wren")}),
        ("file,start_time,end_time,Great Tit\na.flac,0,6,0\nb.flac,0,6,1\n",
         {"a.flac": (), "b.flac": ("Great Tit",)}),
    ],
)  # fmt: skip
def test_absence_is_no_presence(tmp_path, table, expected):
    put(tmp_path, "a.flac", "b.flac")
    (tmp_path / "labels.csv").write_text(table)
    found = adds_up(load_recordings(tmp_path, require_labels=False))
    assert {r.path.name: r.species for r in found.recordings} == expected


def test_free_text_names_a_species_only_where_nothing_else_does(tmp_path):
    put(tmp_path, "Black Phoebe/a.flac", "b.flac", "Black Phoebe/c.flac")
    for name, column, value in (("Black Phoebe/a", "Mood", "Loud And Clear"), ("b", "MyTag", "Wren")):
        (tmp_path / f"{name}.txt").write_text(
            raven(f"1\tS\t1\t1.0\t1.4\t500\t3500\t{value}", more=f"\t{column}")
        )
    row = "1\tS\t1\t1.0\t1.4\t500\t3500\t2020/05/01 06:00:01.000\t06:00:01\tJane Doe"
    more = "\tBegin Date Time\tBegin Clock Time\tObserver"
    (tmp_path / "Black Phoebe/c.txt").write_text(raven(row, more=more))
    found = adds_up(load_recordings(tmp_path))
    assert {r.path.name: r.species for r in found.recordings} == {
        "a.flac": ("Black Phoebe",), "b.flac": ("Wren",), "c.flac": ("Black Phoebe",),
    }  # fmt: skip
    assert "'MyTag'" in told(found)


@pytest.mark.parametrize(
    "columns", ["startTime,endTime", "t_start,t_end", "tmin,tmax", "from,to", "onset_time,offset_time"]
)
def test_times_are_read_under_many_headings(tmp_path, columns):
    put(tmp_path, "a.flac")
    (tmp_path / "t.csv").write_text(f"file,{columns},label\na.flac,1.0,1.4,Owl\n")
    assert boxes(load_recordings(tmp_path, tmp_path / "t.csv")) == {"a.flac": [(1.0, "Owl")]}


def test_columns_that_look_like_times_and_are_not_read_are_said(tmp_path):
    put(tmp_path, "a.flac")
    (tmp_path / "t.csv").write_text("file,timestamp_s,label\na.flac,5,Owl\n")
    assert "'timestamp_s'" in told(load_recordings(tmp_path, tmp_path / "t.csv"))


def test_every_row_that_finds_no_place_is_counted(tmp_path):
    put(tmp_path, "a.wav")
    (tmp_path / "b.m4a").write_bytes(b"\0")
    rows = (
        "a.wav,Owl",
        "b.m4a,Wren",
        "c.3gp,Wren",
        "2020.05.01_06.00,Wren",
        "missing.wav,Wren",
        "d.jpg,Wren",
    )
    (tmp_path / "labels.csv").write_text("file,label\n" + "\n".join(rows) + "\n")
    found = adds_up(load_recordings(tmp_path))
    assert found.account.read == 6
    assert +found.account.left_out == {MISSING_FILE: 4, UNREADABLE: 1}


def test_the_folders_own_table_is_the_authority_and_that_is_said(tmp_path):
    put(tmp_path, "Great Tit/a.flac", "Blue Tit/b.flac")
    (tmp_path / "labels.csv").write_text("file,start,end,label\nGreat Tit/a.flac,1,2,\n")
    found = adds_up(load_recordings(tmp_path))
    assert boxes(found) == {"a.flac": [(1.0, "Great Tit")]}  # a box without a name has its folder's
    assert "no-label-in-table" in codes_of(problem.reason for problem in found.problems)


def test_folders_in_folders_are_seen_through_or_asked_about(tmp_path):
    names = (
        "fold1/Wren/1.flac",
        "Set 2/Wren/2.flac",
        "Site A/Wren/3.flac",
        "CD 1/Robin/4.flac",
        "batch3/Robin/5.flac",
    )
    put(tmp_path / "x", *names, duration_s=0.2)
    assert load_recordings(tmp_path / "x").species == ("Robin", "Wren")
    put(tmp_path / "y", "Oak Hill/Wren/1.flac", "Elm Park/Wren/2.flac", duration_s=0.2)
    assert "'Wren'" in told(load_recordings(tmp_path / "y"))


def test_a_label_of_the_whole_file_names_no_box_of_others(tmp_path):
    put(tmp_path, "b.flac")
    (tmp_path / "l.csv").write_text("file,start,end,label\nb.flac,0.5,1,Wren\nb.flac,,,Owl\n")
    found = adds_up(load_recordings(tmp_path, tmp_path / "l.csv"))
    assert boxes(found) == {"b.flac": [(0.5, "Wren")]} and unknown(found, "b.flac") == [("Owl", None, None)]


def test_the_best_of_several_label_columns_is_taken(tmp_path):
    put(tmp_path, "a.flac")
    for table, species, kind in (
        (
            "file,scientificName,vernacularName,class,order\na.flac,Parus major,Great Tit,Aves,X\n",
            "Great Tit",
            "",
        ),
        ("file,label,species\na.flac,song,Owl\n", "Owl", "song"),
    ):
        (tmp_path / "t.csv").write_text(table)
        (label,) = load_recordings(tmp_path, tmp_path / "t.csv").recordings[0].labels
        assert (label.label, label.sound_type) == (species, kind)


def test_channels_that_count_from_0_and_frequencies_that_are_none(tmp_path):
    put(tmp_path, "a.flac", channels=2)
    (tmp_path / "t.csv").write_text(
        "file,channel,start,end,low,high,label\na.flac,0,1,2,-1,-1,Owl\na.flac,1,3,4,0,0,Wren\n"
    )
    owl, wren = load_recordings(tmp_path, tmp_path / "t.csv").recordings[0].labels
    assert (owl.channel, wren.channel) == (1, 2) and owl.low_hz is owl.high_hz is wren.high_hz is None


def test_a_quotation_mark_that_is_not_closed_is_refused(tmp_path):
    put(tmp_path, "a.flac", "b.flac")
    (tmp_path / "t.csv").write_text('file,label\na.flac,"Owl\nb.flac,Wren\n')
    with refuses(("t.csv", "line 3"), kind=Damaged):
        load_recordings(tmp_path, tmp_path / "t.csv")


def test_tables_among_the_recordings_are_read_where_their_rows_name_files(tmp_path):
    put(tmp_path, "a.flac", "b.flac")
    rows = [f"{n}\tS\t1\t1.0\t1.4\t500\t3500\t{f}.flac\t1.0\tOwl" for n, f in ((1, "a"), (2, "b"))]
    (tmp_path / "BirdNET_SelectionTable.txt").write_text(
        raven(*rows, more="\tBegin Path\tFile Offset (s)\tSpecies")
    )
    assert boxes(adds_up(load_recordings(tmp_path))) == {"a.flac": [(1.0, "Owl")], "b.flac": [(1.0, "Owl")]}


def test_recordings_are_found_by_their_catalogue_numbers(tmp_path):
    put(tmp_path, "XC100001.flac", "Parus-major-100002.flac")
    (tmp_path / "metadata.csv").write_text(
        "id,gen,sp,en,file\n100001,Parus,major,Great Tit,https://xeno-canto.org/100001/download\n"
        "100002,Cyanistes,caeruleus,Blue Tit,\n"
    )
    found = adds_up(load_recordings(tmp_path))
    assert {r.path.name: r.species for r in found.recordings} == {
        "XC100001.flac": ("Great Tit",), "Parus-major-100002.flac": ("Blue Tit",),
    }  # fmt: skip


def test_a_name_that_stands_in_the_row_of_one_view_alone_is_kept(tmp_path):
    put(tmp_path, "a.flac")
    rows = ("1\tWaveform 1\t1\t1.0\t1.4\t\t\tOwl", "1\tSpectrogram 1\t1\t1.0\t1.4\t500\t3500\t")
    (tmp_path / "a.txt").write_text(raven(*rows, more="\tSpecies"))
    (label,) = load_recordings(tmp_path).recordings[0].labels
    assert (label.label, label.low_hz) == ("Owl", 500.0)


def test_a_file_without_a_header_is_told(tmp_path):
    put(tmp_path, "a.flac")
    (tmp_path / "t.csv").write_text("0.5,0.3,Parmaj_song\n1.5,0.3,Parmaj_song\n")
    with refuses(("t.csv", "0.5, 0.3, Parmaj_song"), "first line", kind=NotFound):
        load_recordings(tmp_path, tmp_path / "t.csv")


@pytest.mark.parametrize(
    "table",
    [
        "file,licence,recordist,playback_used\na.flac,CC0,Jo,0\nb.flac,CC0,Jo,1\n",
        "file,licence,tag\na.flac,CC0,train\nb.flac,CC0,test\n",
        "file,licence,bird\na.flac,CC0,M12\nb.flac,CC0,M13\n",
        "file,start,end,verified\na.flac,1,2,1\nb.flac,1,2,0\n",
        "file,annotation\na.flac,a.txt\nb.flac,b.txt\n",
    ],
)
def test_a_found_table_of_other_things_names_no_birds(tmp_path, table):
    put(tmp_path, "Great Tit/a.flac", "Blue Tit/b.flac")
    (tmp_path / "metadata.csv").write_text(table)
    found = adds_up(load_recordings(tmp_path))
    assert {r.path.name: r.species for r in found.recordings} == {
        "a.flac": ("Great Tit",),
        "b.flac": ("Blue Tit",),
    }
    assert all(r.licence == "CC0" for r in found.recordings) or "licence" not in table


def test_tables_of_counts_keep_their_birds(tmp_path):
    put(tmp_path, "a.flac", "b.flac")
    rows = (
        "file,start,end,Great Tit,Blue Tit\na.flac,0,3,2,1\nb.flac,0,3,1,0\nb.flac,3,6,3,0\na.flac,3,6,0,0\n"
    )
    (tmp_path / "t.csv").write_text(rows)
    found = adds_up(load_recordings(tmp_path, tmp_path / "t.csv"))
    assert boxes(found) == {
        "a.flac": [(0.0, "Great Tit"), (0.0, "Blue Tit")],
        "b.flac": [(0.0, "Great Tit"), (3.0, "Great Tit")],
    }
    said = remarked([problem.reason for problem in found.problems], "species-in-columns")
    assert said.facts["columns"] == ["Great Tit", "Blue Tit"] and "Great Tit, Blue Tit" in said


def test_that_one_bird_is_not_there_says_nothing_of_others(tmp_path):
    put(tmp_path, "a.flac", "b.flac")
    (tmp_path / "t.csv").write_text(
        "file,start,end,species,correct\na.flac,0,3,Owl,1\na.flac,3,6,Owl,0\nb.flac,0,3,Owl,0\n"
    )
    found = adds_up(load_recordings(tmp_path, tmp_path / "t.csv"))
    assert boxes(found) == {"a.flac": [(0.0, "Owl")]} and unknown(found, "a.flac") == [("Owl", 3.0, 6.0)]
    assert found.account.left_out["marked absent"] == 2


def test_a_box_that_was_not_named_in_a_table_of_names_has_no_folders_name(tmp_path):
    put(tmp_path, "Mill Pond/a.flac")
    (tmp_path / "Mill Pond/a.txt").write_text("1\t2\tOwl\n3\t4\t\n")
    found = adds_up(load_recordings(tmp_path))
    assert boxes(found) == {"a.flac": [(1.0, "Owl")]} and found.account.left_out["no name"] == 1


def test_rows_whose_times_are_not_read_label_no_whole_file(tmp_path):
    put(tmp_path, "a.flac", "b.flac")
    (tmp_path / "t.csv").write_text("file,timestamp_s,label\na.flac,0,Owl\na.flac,5,Wren\nb.flac,0,Wren\n")
    found = adds_up(load_recordings(tmp_path, tmp_path / "t.csv"))
    assert boxes(found) == {"b.flac": [(None, "Wren")]} and (
        "rows-without-times" in codes_of(problem.reason for problem in found.problems)
    )


def test_found_tables_are_read_in_any_case_and_all_of_them(tmp_path):
    put(tmp_path, "a.flac")
    (tmp_path / "Labels.CSV").write_text("file,start,end,label\na.flac,1,2,Owl\n")
    (tmp_path / "manifest.csv").write_text("file,licence\na.flac,CC0\n")
    (recording,) = adds_up(load_recordings(tmp_path)).recordings
    assert recording.species == ("Owl",) and recording.licence == "CC0"


@pytest.mark.parametrize(
    ("text", "kind"), [("alarm", "alarm"), ("call 2", "call 2"), ("male song", "male song")]
)
def test_calls_of_a_species_folder_are_its_species(tmp_path, text, kind):
    put(tmp_path, "Great Tit/a.flac")
    (tmp_path / "Great Tit/a.txt").write_text(f"1\t2\t{text}\n")
    (label,) = load_recordings(tmp_path).recordings[0].labels
    assert (label.label, label.sound_type) == ("Great Tit", kind)


def test_many_rows_of_one_box_take_no_time_to_speak_of(tmp_path):
    put(tmp_path, "a.flac")
    rows = [f"1\tSpectrogram 1\t1\t1.0\t1.4\t500\t3500\tSpecies {n}" for n in range(20000)]
    (tmp_path / "a.txt").write_text(raven(*rows, more="\tSpecies"))
    assert len(load_recordings(tmp_path).recordings[0].labels) == 20000  # quadratic work would not end
