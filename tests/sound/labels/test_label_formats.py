"""Raven, Audacity, xeno-canto and tables, each by itself."""

from __future__ import annotations

import json

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from birdsd.errors import BadValue, Damaged, NotFound, UnknownName
from birdsd.sound.labels.annotation import Label
from birdsd.sound.labels.audacity import read_audacity, write_audacity
from birdsd.sound.labels.raven import read_raven, read_raven_files, write_raven
from birdsd.sound.labels.tables import read_table
from birdsd.sound.labels.xenocanto import licence_name, read_xenocanto, xenocanto_id
from birdsd.sound.species.names import read_names
from tests.support.errors import refuses

HEADER = "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tHigh Freq (Hz)"
# Whatever is typed; a name that would be a list when it is read again ('[0]') cannot come back as it was.
names = (
    st.text(min_size=1, max_size=30)
    .map(lambda text: "".join(read_names(text).species[:1]))
    .filter(lambda name: name and read_names(name).species == (name,))
)


@st.composite
def boxes(draw):
    start = draw(st.integers(0, 10**7)) / 1000
    low = draw(st.integers(0, 10000))
    return Label(
        draw(names), start, start + draw(st.integers(1, 9000)) / 1000, low, low + draw(st.integers(1, 9000))
    )


def key(label):
    return (label.start_s, label.end_s, label.label, label.low_hz, label.high_hz)


@settings(max_examples=40, deadline=None)
@given(st.lists(boxes(), max_size=6))
def test_what_is_written_is_read_back(tmp_path_factory, labels):
    folder = tmp_path_factory.mktemp("tables")
    write_raven(folder / "a.txt", labels)
    write_audacity(folder / "b.txt", labels)
    for found in (read_raven(folder / "a.txt"), read_audacity(folder / "b.txt")):
        for got, want in zip(sorted(found, key=key), sorted(labels, key=key), strict=True):
            assert got.label == want.label
            assert key(got)[:2] == pytest.approx(key(want)[:2], abs=1e-6)
            assert (got.low_hz, got.high_hz) == pytest.approx((want.low_hz, want.high_hz), abs=1e-3)


def test_raven_labels_without_a_box_span_the_recording(tmp_path):
    write_raven(tmp_path / "a.txt", [Label("Wren", sound_type="song")], duration_s=5.0, top_hz=16000.0)
    (label,) = read_raven(tmp_path / "a.txt")
    assert label == Label("Wren", 0.0, 5.0, 0.0, 16000.0, sound_type="song", channel=1)


def test_raven_counts_a_selection_once_and_takes_the_view_with_frequencies(tmp_path):
    (tmp_path / "a.txt").write_text(
        f"{HEADER}\tSpecies\n1\tWaveform 1\t1\t1.0\t2.0\t0.0\t22050.0\tWren\n"
        "1\tSpectrogram 1\t1\t1.0\t2.0\t3000.0\t6000.0\tWren\n"
    )
    (label,) = read_raven(tmp_path / "a.txt")
    assert (label.low_hz, label.high_hz) == (3000.0, 6000.0)


def test_raven_over_several_files_gives_times_within_each(tmp_path):
    (tmp_path / "a.txt").write_text(
        f"{HEADER}\tBegin Path\tFile Offset (s)\tMyTag\n"
        "1\tSpectrogram 1\t1\t1.0\t2.0\t1\t2\tC:\\x\\a.wav\t1.0\tWren\n"
        "2\tSpectrogram 1\t1\t65.0\t66.5\t1\t2\tC:\\x\\b.wav\t5.0\tRobin\n"
        "3\tSpectrogram 1\t1\t70.0\t71.0\t1\t2\tC:\\x\\b.wav\t10.0\tnoise\n"
    )
    found = read_raven_files(tmp_path / "a.txt")
    assert [(x.label, x.start_s, x.end_s) for x in found["C:\\x\\b.wav"]] == [("Robin", 5.0, 6.5)]
    assert len(found["C:\\x\\a.wav"]) == 1


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_raven_with_only_a_header_has_no_boxes(tmp_path, line_end):
    (tmp_path / "a.txt").write_bytes((HEADER + "\tSpecies\t" + line_end).encode())
    assert read_raven(tmp_path / "a.txt") == []


@pytest.mark.parametrize(
    ("text", "kind", "named"),
    [
        (f"{HEADER}\n1\ts\t1\t0\t1\t0\t1\n", NotFound, "Selection, View, Channel"),
        (f"{HEADER}\tA\tB\n1\ts\t1\t0\t1\t0\t1\tx\ty\n", NotFound, "Selection, View, Channel"),
        (f"{HEADER}\tSpecies\n7\ts\t1\tsoon\t1\t0\t1\tWren\n", BadValue, "selection 7: the start is 'soon'"),
        ("a,b\n1,2\n", NotFound, "a, b"),
        ("", NotFound, "(none)"),
    ],
)
def test_raven_says_what_is_wrong(tmp_path, text, kind, named):
    (tmp_path / "a.txt").write_text(text)
    with refuses(("a.txt", named), kind=kind):
        read_raven(tmp_path / "a.txt")


def test_audacity_in_both_forms_with_decimal_commas_and_a_byte_order_mark(tmp_path):
    text = "0,5\t1,25\tWren\n\\\t3000.5\t6000\n2.0\t2.0\tpoint\n\\\t-1\t900\n3\t4\n"
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
    first, second, third = read_audacity(tmp_path / "a.txt")
    assert key(first) == (0.5, 1.25, "Wren", 3000.5, 6000.0)
    assert key(second) == (2.0, 2.0, "Point", None, 900.0)
    assert third.label == ""
    (tmp_path / "b.txt").write_text("hello\n")
    with refuses(("b.txt, line 1", "'hello'"), kind=BadValue):
        read_audacity(tmp_path / "b.txt")


def test_xenocanto_pages_lists_and_single_records(tmp_path):
    record = {
        "id": "123456", "gen": "Troglodytes", "sp": "troglodytes", "en": "Eurasian Wren", "rec": "A. Person",
        "type": "song", "lic": "//creativecommons.org/licenses/by-nc-sa/4.0/", "file": None,
    }  # fmt: skip
    for value in ({"recordings": [record]}, [{"recordings": [record]}], [record]):
        (tmp_path / "a.json").write_text(json.dumps(value))
        found = read_xenocanto(tmp_path / "a.json")["XC123456"]
        assert (found.label, found.sound_type, found.recordist) == ("Eurasian Wren", "song", "A. Person")
        assert found.licence == "CC BY-NC-SA 4.0"
    (tmp_path / "a.json").write_text('{"recordings": []}')
    with refuses("a.json", "`recordings`", kind=NotFound):
        read_xenocanto(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("{oops")
    with refuses("a.json", kind=Damaged):
        read_xenocanto(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("stem", "number"),
    [
        ("XC123456", "XC123456"),
        ("XC123456 - American Robin - Turdus migratorius", "XC123456"),
        ("xc99_2", "XC99"),
        ("American Robin XC123456", "XC123456"),
        ("FXC123456", None),
        ("BOXC12", None),
        ("robin", None),
    ],
)
def test_catalogue_numbers_in_file_names(stem, number):
    assert xenocanto_id(stem) == number


def test_licences_other_than_addresses_stay():
    assert licence_name("https://creativecommons.org/publicdomain/zero/1.0/") == "CC0 1.0"
    assert licence_name("my own") == "my own"


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_tables_with_other_names_and_delimiters(tmp_path, delimiter):
    rows = [
        ["Begin Path", "Common Name", "Start (s)", "End (s)", "License"],
        ["a.wav", "Wren", "0.5", "1", "CC0"],
    ]
    (tmp_path / "t.csv").write_text("\n".join(delimiter.join(row) for row in rows))
    (row,) = read_table(tmp_path / "t.csv").rows
    assert (row.file, row.licence) == ("a.wav", "CC0")
    assert row.labels() == [Label("Wren", 0.5, 1.0)]


def test_a_bad_row_is_a_problem_and_the_others_stay(tmp_path):
    (tmp_path / "t.csv").write_text(
        "path,label,start,end\na.wav,Wren,soon,1\nb.wav,Wren,0,1\nc.wav,Wren,1,\n"
    )
    table = read_table(tmp_path / "t.csv")
    assert [row.file for row in table.rows] == ["b.wav"]
    soon, lone = (problem.reason for problem in table.problems)
    assert soon.startswith("row 2: ") and "start" in soon and "'soon'" in soon
    assert lone.startswith("row 4: ") and "start" in lone and "end" in lone


def test_columns_can_be_named_and_unknown_ones_get_the_nearest(tmp_path):
    (tmp_path / "t.csv").write_text("tape,labell\na.wav,Wren\n")
    with refuses(("t.csv", "tape, labell"), "'label' by 'labell'", kind=NotFound):
        read_table(tmp_path / "t.csv")
    found = read_table(tmp_path / "t.csv", {"path": "tape", "label": "labell"})
    assert found.rows[0].labels() == [Label("Wren")]
    with refuses("'x'", kind=NotFound):
        read_table(tmp_path / "t.csv", {"path": "x"})
    with refuses("'birds'", kind=UnknownName):
        read_table(tmp_path / "t.csv", {"birds": "tape"})


def test_parquet_is_a_table_too_and_a_broken_one_is_named(tmp_path):
    columns = {
        "path": ["a.wav", "b.wav"],
        "label": ["Wren", None],
        "start_s": [0.25, None],
        "end_s": [1.0, None],
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    first, second = read_table(tmp_path / "t.parquet").rows
    assert first.labels() == [Label("Wren", 0.25, 1.0)]
    assert second.labels() == [] and not second.about_birds
    (tmp_path / "t.parquet").write_bytes(b"PAR1 no")
    with refuses("t.parquet", kind=Damaged):
        read_table(tmp_path / "t.parquet")


@pytest.mark.data
def test_real_annotations(data_folder):
    soundscapes = data_folder / "soundscapes"
    spinetail = read_audacity(soundscapes / "scikit_maad" / "spinetail.txt")
    assert len(spinetail) == 18 and all(label.low_hz and label.high_hz for label in spinetail)
    raven = soundscapes / "opensoundscape" / "raven_annots"
    assert read_raven(raven / "EmptyExample.Table.1.selections.txt") == []
    assert read_raven(raven / "raven_with_Annotation_col.txt")[0].label == "CSWA"
    assert len(read_raven(raven / "MSD-0003_20180427_2minstart00.Table.1.selections.txt")) == 10
    perch = soundscapes / "perch" / "Recording_1_Segment_05.Table.1.selections.txt"
    assert {label.label for label in read_raven(perch)} == {"NOCA", "WOTH", "EATO"}
