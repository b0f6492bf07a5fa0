"""What `birdsd run prepare` says of names that are one species."""

from __future__ import annotations

import json
from pathlib import Path

import soundfile

from birdsd.cli import main
from tests.support.judge_sounds import needs_birdnet, tone


def recordings(folder: Path, *names: str) -> Path:
    """Two recordings in a folder for each name."""
    for pitch, name in enumerate(names):
        for take in range(2):
            path = folder / name / f"{pitch}{take}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, tone(1500 + 400 * pitch + 90 * take, 2.5), 32000)
    return folder


def prepared(capsys, folder: Path, shards: Path) -> tuple[dict, str]:
    common = ["run", "prepare", "data=soundscape", "codec=birdsong-tiny", "machine.processes=1"]
    status = main.main([*common, f"data.recordings={folder}", f"data.shards={shards}", "--json"])
    facts = json.loads(capsys.readouterr().out)
    assert status == 0
    assert main.main([*common, f"data.recordings={folder}", f"data.shards={shards}"]) == 0
    return facts, capsys.readouterr().out


@needs_birdnet
def test_a_common_and_a_scientific_name_of_one_species_are_pointed_out(capsys, tmp_path: Path) -> None:
    folder = recordings(tmp_path / "sounds", "Black Phoebe", "Sayornis nigricans", "House Sparrow")
    facts, text = prepared(capsys, folder, tmp_path / "shards")
    assert facts["names_of_one_species"] == [["Black Phoebe", "Sayornis nigricans"]]
    assert len(facts["species"]) == 3
    line = next(line for line in text.splitlines() if "Sayornis nigricans" in line and "one species" in line)
    assert "House Sparrow" not in line

    # The way out that the line names.
    both = recordings(tmp_path / "both", "Black Phoebe (Sayornis nigricans)")
    (folder / "Black Phoebe").rename(both / "Black Phoebe")
    (folder / "Sayornis nigricans").rename(both / "Sayornis nigricans")
    facts, text = prepared(capsys, both, tmp_path / "merged")
    assert list(facts["species"]) == ["Black Phoebe"] and not facts["names_of_one_species"]
    assert "BirdNET" not in text
