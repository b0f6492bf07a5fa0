"""Labels from the field: which file, which stretch, which name; and an account that adds up."""

from __future__ import annotations

import json
import unicodedata

import pytest

from birdsd.errors import NothingLeft
from birdsd.sound.labels.annotation import (
    MALFORMED,
    MISSING_FILE,
    NO_NAME,
    OUT_OF_BAND,
    OUTSIDE,
    REPEATED,
    SUPERSEDED,
    UNREADABLE,
)
from birdsd.sound.labels.load import load_recordings
from tests.support.errors import refuses
from tests.support.remarks import codes as codes_of
from tests.support.sound_makers import save, tone

HEADER = "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tHigh Freq (Hz)"


def put(folder, *names, duration_s=6.0, rate_hz=8000, channels=1):
    for name in names:
        save(folder / name, tone(duration_s, rate_hz, channels), rate_hz)
    return folder


def boxes(found):
    """{file: [(start, name), ...]}"""
    return {
        recording.path.name: [(label.start_s, label.label) for label in recording.labels]
        for recording in found.recordings
    }


def told(found):
    return "\n".join(f"{problem.path.name}: {problem.reason}" for problem in found.problems)


def codes(found):
    return codes_of(problem.reason for problem in found.problems)


def adds_up(found):
    """Everything that was read is in a recording or left out for a reason."""
    inside = sum(recording.rows for recording in found.recordings)
    assert found.account.read == inside + sum(found.account.left_out.values()), found.account
    assert found.files == len(found.recordings) + sum(found.files_left_out.values()), found.files_left_out
    return found


def raven(*rows, more=""):
    return "\n".join([f"{HEADER}{more}", *rows]) + "\n"


def test_rows_name_their_files_also_beside_a_recording_and_in_a_folder(tmp_path):
    table = raven(
        "1\tSpectrogram 1\t1\t1.0\t1.4\t500\t3500\tREC_0600.flac\t1.0\tOwl",
        "2\tSpectrogram 1\t1\t6.5\t6.9\t500\t3500\tREC_0700.flac\t2.5\tTrogon",
        "3\tSpectrogram 1\t1\t9.5\t9.9\t500\t3500\tREC_0800.flac\t1.5\tTrogon",
        more="\tBegin File\tFile Offset (s)\tSpecies",
    )
    root = put(tmp_path / "audio", "REC_0600.flac", "REC_0700.flac")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "REC_0600.Table.1.selections.txt").write_text(table)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "everything.txt").write_text(table)
    for labels in (tmp_path / "labels", tmp_path / "folder", tmp_path / "folder" / "everything.txt", None):
        if labels is None:
            (root / "REC_0600.Table.1.selections.txt").write_text(table)
        found = adds_up(load_recordings(root, labels))
        assert boxes(found) == {"REC_0600.flac": [(1.0, "Owl")], "REC_0700.flac": [(2.5, "Trogon")]}
        assert "REC_0800.flac'" in told(found)
        assert found.account.left_out[MISSING_FILE] == 1


def test_a_first_file_without_boxes_of_its_own_is_not_called_birdless(tmp_path):
    root = put(tmp_path, "a.flac", "b.flac")
    row = "1\tSpectrogram 1\t1\t6.5\t6.9\t500\t3500\tb.flac\t0.5\tOwl"
    (root / "a.Table.1.selections.txt").write_text(raven(row, more="\tBegin File\tFile Offset (s)\tSpecies"))
    found = adds_up(load_recordings(root))
    assert boxes(found) == {"b.flac": [(0.5, "Owl")]} and [r.path.name for r in found.unlabelled] == [
        "a.flac"
    ]


def test_joined_tables_number_their_selections_anew(tmp_path):
    put(tmp_path, "s.flac")
    (tmp_path / "s.txt").write_text(
        raven(
            "1\tWaveform 1\t1\t1.0\t1.4\t0\t4000\tOwl",
            "1\tSpectrogram 1\t1\t1.0\t1.4\t500\t3500\tOwl",
            "1\tSpectrogram 1\t1\t3.5\t3.9\t500\t3500\tTrogon",
            "2\tSpectrogram 1\t1\t1.0\t1.4\t500\t3500\tOwl",
            more="\tSpecies",
        )
    )
    found = adds_up(load_recordings(tmp_path))
    assert boxes(found) == {
        "s.flac": [(1.0, "Owl"), (3.5, "Trogon")]
    }  # the fourth row is the box of the second
    assert found.recordings[0].labels[0].low_hz == 500.0
    assert found.account.left_out["listed twice"] == 1


@pytest.mark.parametrize(
    ("second_s", "durations_s", "clear"),
    [
        (5.0, (4.0, 3.0), False),  # counts over both files: 1.0 in the second
        (1.5, (4.0, 3.0), True),  # cannot: the second file would begin at 4
        (5.0, (4.0, 60.0), False),  # 1.0 or 5.0 in the second: asked about
    ],
)
def test_times_that_grow_over_the_files_are_asked_about(tmp_path, second_s, durations_s, clear):
    root = tmp_path / "rec"
    for name, duration_s in zip(("s0.flac", "s1.flac"), durations_s, strict=True):
        put(root, name, duration_s=duration_s)
    put(root, "other/o.flac")
    table = tmp_path / "table.txt"
    rows = (
        "1\tSpectrogram 1\t1\t1.0\t1.4\t500\t3500\ts0.flac\tOwl",
        f"2\tSpectrogram 1\t1\t{second_s}\t{second_s + 0.4}\t500\t3500\ts1.flac\tOwl",
    )
    table.write_text(raven(*rows, more="\tBegin File\tSpecies"))
    if clear:
        found = adds_up(load_recordings(root, table))
        assert boxes(found) == {"s0.flac": [(1.0, "Owl")], "s1.flac": [(second_s, "Owl")]}
    else:
        with refuses(("'Begin Time (s)'", "2 files", "File Offset"), kind=NothingLeft):
            load_recordings(root, table)


def test_a_file_offset_settles_it_and_decimal_commas_do_no_harm(tmp_path):
    put(tmp_path, "s0.flac", "s1.flac")
    table = tmp_path / "t.txt"
    table.write_text(
        raven(
            "1\tSpectrogram 1\t1\t1,25\t1,5\t500,0\t1.500,0\ts0.flac\t1,25\tOwl",
            "2\tSpectrogram 1\t1\t7,5\t8,0\t500,0\t1.500,0\ts1.flac\t1,5\tOwl",
            more="\tBegin File\tFile Offset (s)\tSpecies",
        )
    )
    found = adds_up(load_recordings(tmp_path, table))
    assert boxes(found) == {"s0.flac": [(1.25, "Owl")], "s1.flac": [(1.5, "Owl")]}
    assert found.recordings[1].labels[0].high_hz == 1500.0


def test_thousands_separators_are_no_decimal_commas(tmp_path):
    put(tmp_path, "a.flac", duration_s=2000.0, rate_hz=4000)
    table = tmp_path / "t.csv"
    table.write_text('start,end,low,label\n"1,234","1,236",500,Owl\n12,15,"1,500",Owl\n"0.5",0.75,300,Owl\n')
    found = adds_up(load_recordings(tmp_path, table))
    assert boxes(found)["a.flac"] == [(1234.0, "Owl"), (12.0, "Owl"), (0.5, "Owl")]
    table.write_text('start,end,label\n"1,234","1,236",Owl\n12,15,Owl\n1500,1501,Owl\n')
    found = adds_up(load_recordings(tmp_path, table))
    assert boxes(found)["a.flac"] == [(12.0, "Owl"), (1500.0, "Owl")] and "'1,234'" in told(found)
    (row,) = [one for one in told(found).splitlines() if "'1,234'" in one]
    assert "two" in row and "comma" in row, "it has two readings, and is not merely no number"
    assert found.account.left_out[MALFORMED] == 1


def test_tables_that_r_and_excel_wrote(tmp_path):
    put(tmp_path, "s1.flac", "s2.flac", "s3.flac")
    quoted = "\t".join(f'"{name}"' for name in HEADER.split("\t")) + '\t"Species"\n'
    (tmp_path / "s1.txt").write_text(quoted + '1\t"Spectrogram 1"\t1\t1.0\t1.4\t500\t3500\t"Owl"\n')
    (tmp_path / "s2.txt").write_text(
        raven('1\t"Spectrogram 1"\t1\t1.0\t1.4\t500\t3500\t"Owl"', more="\tSpecies")
    )
    # write.table names its rows, and leaves the header of that column out
    (tmp_path / "s3.txt").write_text(quoted + '"1"\t1\t"Spectrogram 1"\t1\t1.0\t1.4\t500\t3500\t"Owl"\n')
    found = adds_up(load_recordings(tmp_path))
    assert boxes(found) == {f"s{n}.flac": [(1.0, "Owl")] for n in (1, 2, 3)}
    excel = tmp_path / "e.csv"
    for text in (
        "\ufeffsep=;\nfile;start;end;label\ns1.flac;1,0;1,4;Owl\n",
        "sep=\t\nfile\tstart\tend\tlabel\ns1.flac\t1.0\t1.4\tOwl\n",
    ):
        excel.write_text(text, encoding="utf-8")
        assert boxes(load_recordings(tmp_path, excel))["s1.flac"] == [(1.0, "Owl")]


def test_a_column_of_measurements_names_no_species(tmp_path):
    put(tmp_path, "Black Phoebe/a.flac", "b.flac")
    for name in ("Black Phoebe/a.txt", "b.txt"):
        (tmp_path / name).write_text(
            raven("1\tSpectrogram 1\t1\t1.0\t1.4\t500\t3500\t-55.2", more="\tAvg Power (dB)")
        )
    found = adds_up(load_recordings(tmp_path))
    assert boxes(found) == {"a.flac": [(1.0, "Black Phoebe")]}  # the folder's name, not the measurement
    assert "label-without-name" in codes(found) and found.account.left_out["no name"] == 1
    (tmp_path / "b.txt").write_text(raven("1\tSpectrogram 1\t1\t1.0\t1.4\t500\t3500\tWren", more="\tMyTag"))
    assert boxes(load_recordings(tmp_path))["b.flac"] == [(1.0, "Wren")]


def test_boxes_that_name_only_a_sound_type_have_the_species_of_the_folder(tmp_path):
    put(tmp_path, "black_phoebe/a.flac")
    (tmp_path / "black_phoebe/a.txt").write_text("1.0\t1.4\tsong\n3.0\t3.4\tcall\n")
    (recording,) = adds_up(load_recordings(tmp_path)).recordings
    assert [(x.label, x.sound_type) for x in recording.labels] == [
        ("Black Phoebe", "song"),
        ("Black Phoebe", "call"),
    ]


def test_a_species_is_a_common_name_or_genus_and_epithet(tmp_path):
    put(tmp_path, "a.flac", "b.flac", "c.flac", duration_s=0.2)
    licence = "http://creativecommons.org/licenses/by-nc-sa/3.0/"
    table = tmp_path / "metadata.csv"
    table.write_text(
        "id,file,genus,species,english_cname,type,license\n"
        f"1,a.flac,Parus,major,Great Tit,song,{licence}\n"
        f"2,b.flac,Dendrocopos,major,,\"['call', 'drumming']\",{licence}\n"
    )
    found = adds_up(load_recordings(tmp_path))
    assert found.species == ("Dendrocopos major", "Great Tit")
    a, b = found.recordings
    assert a.licence == "CC BY-NC-SA 3.0" and b.sound_type == "call, drumming"
    table.write_text("file,Genus,Species\na.flac,Parus,major\nb.flac,Dendrocopos,major\n")
    assert load_recordings(tmp_path).species == ("Dendrocopos major", "Parus major")


def test_marks_noises_and_nocall_are_no_species(tmp_path):
    put(tmp_path, "a.flac", "b.flac", "c.flac", "d.flac")
    rows = [
        f"{n}\tSpectrogram 1\t1\t{n}.0\t{n}.4\t500\t3500\t{name}"
        for n, name in enumerate(("GWWA", "?", "Unknown", "Engine"))
    ]
    (tmp_path / "a.txt").write_text(raven(*rows, more="\tSpecies"))
    (tmp_path / "b.txt").write_text(raven("1\tSpectrogram 1\t1\t0\t3\t0\t4000\tnocall", more="\tCommon Name"))
    (tmp_path / "c.txt").write_text(raven("1\tSpectrogram 1\t1\t1\t2\t0\t4000\t?", more="\tSpecies"))
    (tmp_path / "labels.csv").write_text("file,label\nd.flac,Unknown bird\n")
    found = adds_up(load_recordings(tmp_path))
    assert boxes(found) == {"a.flac": [(0.0, "GWWA")], "b.flac": [], "c.flac": []}
    c = next(r for r in found.recordings if r.path.name == "c.flac")
    assert [label.start_s for label in c.unknown] == [1.0] and not c.weak
    assert found.account.left_out["unidentified bird"] == 4 and found.account.left_out["no bird"] == 1
    b = next(r for r in found.recordings if r.path.name == "b.flac")
    assert b.no_bird_rows == 1 and [box.end_s for box in b.silences] == [3.0]
    assert found.files_left_out["unidentified bird"] == 1


def test_xeno_canto_with_unknown_birds_and_numbers_in_other_places(tmp_path):
    put(
        tmp_path,
        "Black Phoebe/Sayornis-nigricans-322230.flac",
        "XC322229.flac",
        "x-322228-y.flac",
        "nobody.flac",
        duration_s=0.2,
    )
    record = {"rec": "J", "lic": "//creativecommons.org/licenses/by/4.0/"}
    (tmp_path / "metadata.json").write_text(
        json.dumps(
            {
                "recordings": [
                    {
                        "id": "322228",
                        "gen": "Mystery",
                        "sp": "mystery",
                        "en": "Identity unknown",
                        "type": "call?",
                        **record,
                    },
                    {
                        "id": "322229",
                        "gen": "Sonus",
                        "sp": "naturalis",
                        "en": "Soundscape",
                        "type": "",
                        **record,
                    },
                    {
                        "id": "322230",
                        "gen": "Sayornis",
                        "sp": "nigricans",
                        "en": "Black Phoebe",
                        "type": "?",
                        **record,
                    },
                ]
            }
        )
    )
    found = adds_up(load_recordings(tmp_path))
    (recording,) = found.recordings
    assert (recording.species, recording.licence, recording.recordist) == (
        ("Black Phoebe",),
        "CC BY 4.0",
        "J",
    )
    assert recording.sound_type == "" and found.files_left_out["unidentified bird"] == 2


@pytest.mark.parametrize("name", ["metadata.json", "labels.csv"])
def test_a_found_table_that_matches_nothing_is_a_finding(tmp_path, name):
    root = put(tmp_path / "birds", "wren/a.flac", duration_s=0.2)
    text = (
        '{"recordings": [{"id": "99", "en": "Wren"}]}'
        if name.endswith("json")
        else "file,label\nq.wav,Wren\n"
    )
    for folder in (root, tmp_path):
        (folder / name).write_text(text)
        assert f"{name}: " in told(load_recordings(root))
        (folder / name).unlink()


def test_one_species_under_many_names_from_every_entrance(tmp_path):
    put(tmp_path, *(f"a{n}.flac" for n in range(5)), duration_s=1.0)
    (tmp_path / "labels.csv").write_text(
        "file,label\na0.flac,Townsend's Warbler\na1.flac,Townsend\u2019s warbler\n"
        "a2.flac,Setophaga townsendi_Townsend's Warbler\na3.flac,TOWNSEND'S WARBLER\na4.flac,\n",
        encoding="utf-8",
    )
    (tmp_path / "a4.txt").write_text("0.1\t0.5\tSetophaga townsendi\n0.5\t0.9\ttownsend_s_warbler\n")
    found = adds_up(load_recordings(tmp_path))
    assert found.species == ("Townsend's Warbler",) and "one species" in told(found)


def test_scientific_and_common_names_of_one_table_are_one_species(tmp_path):
    root = put(tmp_path / "birds", "mallard/a.flac", "mallard/b.flac", duration_s=1.0)
    (root / "mallard" / "a.txt").write_text("0.1\t0.5\tAnas platyrhynchos\n")
    (tmp_path / "manifest.csv").write_text(
        "path,label,scientific_name\nelsewhere/q.flac,Mallard,Anas platyrhynchos\n"
        "birds/mallard/b.flac,Mallard,Anas platyrhynchos\n"
    )
    assert adds_up(load_recordings(root)).species == ("Mallard",)


def test_folders_of_splits_formats_and_dates_are_seen_through(tmp_path):
    put(
        tmp_path,
        "train/House Sparrow/1.flac",
        "Valid/House Sparrow/2.flac",
        "audio/2023/wren/3.flac",
        "fold_1/House Sparrow/4.flac",
        "test/5.flac",
        "Species 1/6.flac",
        duration_s=0.2,
    )
    found = adds_up(load_recordings(tmp_path))
    assert found.species == ("House Sparrow", "Species 1", "Wren")
    assert [r.path.name for r in found.unlabelled] == ["5.flac"]
    assert "'Valid'" in told(found) and "folder-without-species" in codes(found)


def test_csv_beside_the_recording_and_in_a_folder_of_labels(tmp_path):
    root = put(tmp_path / "rec", "a.flac", "b.flac")
    folder = tmp_path / "lab"
    folder.mkdir()
    birdnet = "Start (s),End (s),Scientific name,Common name,Confidence,File\n"
    birdnet += "0.0,3.0,Sayornis nigricans,Black Phoebe,0.9,/data/a.flac\n"
    kaleidoscope = "INDIR,FOLDER,IN FILE,OFFSET,DURATION,MANUAL ID\nC:\\x,,b.wav,1.5,2.5,Owl\n"
    for place in (folder, root):
        (place / "a.BirdNET.results.csv").write_text(birdnet)
        (place / "b.csv").write_text(kaleidoscope)
    for labels in (folder, None):
        found = adds_up(load_recordings(root, labels))
        assert boxes(found) == {"a.flac": [(0.0, "Black Phoebe")], "b.flac": [(1.5, "Owl")]}
        assert found.recordings[1].labels[0].end_s == 4.0


@pytest.mark.parametrize(
    ("written", "there"),
    [
        ("a.wav", "a.flac"),
        ("A.FLAC", "a.flac"),
        ("old/place/a.WAV", "a.flac"),
        (
            unicodedata.normalize("NFD", "\u00e9t\u00e9.flac"),
            unicodedata.normalize("NFC", "\u00e9t\u00e9.flac"),
        ),
    ],
)
def test_names_that_differ_in_suffix_case_or_form_of_unicode_are_found(tmp_path, written, there):
    put(tmp_path, there, "other.flac", duration_s=0.5)
    (tmp_path / "labels.csv").write_text(f"file,label\n{written},Owl\n", encoding="utf-8")
    assert adds_up(load_recordings(tmp_path)).recordings[0].species == ("Owl",)


def test_a_name_that_two_files_bear_is_not_guessed(tmp_path):
    put(tmp_path, "x/a.flac", "y/a.flac", duration_s=0.5)
    (tmp_path / "labels.csv").write_text("file,label\na.wav,Owl\nx/a.flac,Wren\n")
    found = adds_up(load_recordings(tmp_path))
    assert found.species == ("Wren",) and "any of 2" in told(found)


def test_what_is_not_read_is_counted(tmp_path):
    put(tmp_path, "owl/a.flac", duration_s=0.5)
    for name in ("owl/n1.pdf", "owl/n2.pdf", "owl/x.zip", "README.md"):
        (tmp_path / name).write_text("x")
    assert ".pdf 2, .zip 1" in told(load_recordings(tmp_path))


def test_boxes_above_the_nyquist_frequency_are_left_out(tmp_path):
    put(tmp_path, "a.flac", rate_hz=8000)
    (tmp_path / "a.txt").write_text("1\t2\tGoldcrest\n\\\t40000\t50000\n3\t4\tOwl\n\\\t500\t3000\n")
    found = adds_up(load_recordings(tmp_path))
    assert boxes(found) == {"a.flac": [(3.0, "Owl")]}
    assert found.account.left_out[OUT_OF_BAND] == 1 and "40000 Hz" in told(found)


def test_units_in_column_names_are_read(tmp_path):
    put(tmp_path, "a.flac")
    (tmp_path / "t.csv").write_text("label,start_ms,end_ms,low_khz\nOwl,1500,2000,1.5\n")
    (label,) = load_recordings(tmp_path, tmp_path / "t.csv").recordings[0].labels
    assert (label.start_s, label.end_s, label.low_hz) == (1.5, 2.0, 1500.0)


def test_the_account_counts_what_boxes_replace_and_what_lies_outside(tmp_path):
    put(tmp_path, "owl/a.flac", "owl/b.flac", "owl/c.flac")
    (tmp_path / "owl/a.txt").write_text("1\t2\tOwl\n7\t8\tOwl\n1\t2\tOwl\n4\t5\t\nbroken\n")
    (tmp_path / "owl/b.txt").write_text("7\t8\tOwl\n")
    (tmp_path / "owl/d.wav").write_text("not sound")
    (tmp_path / "owl/d.txt").write_text("1\t2\tOwl\n")
    (tmp_path / "labels.csv").write_text("file,label\nowl/a.flac,Wren\nowl/c.flac,Wren\n")
    found = adds_up(load_recordings(tmp_path))
    assert boxes(found) == {"a.flac": [(1.0, "Owl")], "c.flac": [(None, "Wren")]}
    assert +found.account.left_out == {
        NO_NAME: 1,
        OUTSIDE: 2,
        REPEATED: 1,
        MALFORMED: 1,
        SUPERSEDED: 1,
        UNREADABLE: 1,
    }
