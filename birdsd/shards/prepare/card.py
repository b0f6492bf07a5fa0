"""The dataset card (README.md) and the contact sheet: what one looks at before trusting a set of shards."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from birdsd.files import atomic_write, write_text
from birdsd.shards.index import ShardIndex
from birdsd.shards.reader import Sample, ShardReader

CARD_FILE = "README.md"
SHEET_FILE = "contact_sheet.png"
_COLUMNS, _MOST_ROWS = 4, 24
_TILE_WIDTH, _TILE_HEIGHT, _TEXT = 320, 160, 16


def write_card(index: ShardIndex) -> None:
    """Write README.md and contact_sheet.png into the folder of a prepared set."""
    write_contact_sheet(index, index.folder / SHEET_FILE)
    write_text(index.folder / CARD_FILE, card_text(index))


def write_contact_sheet(index: ShardIndex, path: Path) -> None:
    """A picture with a row per species (the first 24 by name) and up to four training samples in each."""
    from PIL import Image, ImageDraw

    rows = [(name, samples) for name, samples in examples(index) if samples][:_MOST_ROWS]
    sheet = Image.new(
        "RGB", (_COLUMNS * _TILE_WIDTH, max(1, len(rows)) * (_TILE_HEIGHT + 2 * _TEXT)), "black"
    )
    draw = ImageDraw.Draw(sheet)
    for line, (name, samples) in enumerate(rows):
        top = line * (_TILE_HEIGHT + 2 * _TEXT)
        draw.text((4, top), name.encode("ascii", "replace").decode(), fill="white")
        for column, sample in enumerate(samples):
            left = column * _TILE_WIDTH
            assert sample.image is not None
            tile = Image.fromarray(colour(sample.image)).resize((_TILE_WIDTH - 4, _TILE_HEIGHT - 4))
            sheet.paste(tile, (left + 2, top + _TEXT))
            caption = str(next(iter(sample.metadata["captions"]), ""))[:52]
            draw.text(
                (left + 4, top + _TEXT + _TILE_HEIGHT - 2),
                caption.encode("ascii", "replace").decode(),
                fill="#999999",
            )
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", compress_level=1)  # noise hardly compresses: higher levels only cost time
    with atomic_write(path) as stream:
        stream.write(buffer.getbuffer())


def examples(index: ShardIndex) -> list[tuple[str, list[Sample]]]:
    """Up to four samples per species, from as many shards as it takes; the shards' summaries say where."""
    split = index.splits[0]
    reader = ShardReader(index, split)
    found: dict[str, list[Sample]] = {
        name: [] for name in sorted(index.dataset.get("species", {}))[:_MOST_ROWS]
    }
    first = 0
    for shard in index.shards(split):
        for name, rows in index.table(shard).summary.get("examples", {}).items():
            for row in rows[: _COLUMNS - len(found[name])] if name in found else ():
                sample = reader.read(first + row)
                if sample.image is not None:
                    found[name].append(sample)
        first += shard.count
        if all(len(samples) >= _COLUMNS for samples in found.values()):
            break
    return list(found.items())


def colour(image: np.ndarray) -> np.ndarray:
    """uint8 [C, H, W] -> uint8 [H, W, 3] for the eye: magma for mono, left as red and right as blue."""
    if image.shape[0] == 1:
        from matplotlib import colormaps

        mapped: np.ndarray = colormaps["magma"](image[0])
        return (mapped[..., :3] * 255).astype(np.uint8)
    if image.shape[0] == 2:
        return np.stack([image[0], image.mean(0).astype(np.uint8), image[1]], axis=2)
    return np.ascontiguousarray(image[:3].transpose(1, 2, 0))


def card_text(index: ShardIndex) -> str:
    """The dataset card, in the form that the Hugging Face hub reads."""
    facts, codec, first = index.dataset, index.codec or {}, index.shards(index.splits[0])[0]
    lines = [
        "---",
        "task_categories:",
        "- text-to-audio",
        "tags:",
        "- bioacoustics",
        "- birds",
        "- webdataset",
    ]
    lines += ["- synthetic"] if facts["synthetic"] else []
    lines += ["license: other", "---", "", f"# Bird spectrograms ({facts['name']})", ""]
    if facts["synthetic"]:
        lines += [
            f"**{facts['synthetic']} samples are of synthetic birds** (birdsd's aviary), not of real ones.",
            "",
        ]
    lines += [
        f"{sum(s['samples'] for s in facts['splits'].values())} clips of {facts['clip_s']:.2f} s, "
        f"prepared by {facts['written_by']}; fingerprint `{index.fingerprint}`. Splits are by recording.",
        "",
        "![contact sheet](contact_sheet.png)",
        "",
        *_table(
            ["split", "samples", "recordings", "hours"],
            [
                [split, counts["samples"], counts["recordings"], f"{counts['hours']:.2f}"]
                for split, counts in facts["splits"].items()
            ],
        ),
        *_table(
            ["species", *facts["splits"]],
            [
                [name, *(counts.get(split, {"samples": 0})["samples"] for split in facts["splits"])]
                for name, counts in facts["species"].items()
            ],
        ),
        "## Licences",
        "",
        "Each sample's JSON names its recording, recordist and licence; `recordings.csv` lists the files.",
        "",
        *_table(["licence", "samples"], [[name, count] for name, count in facts["licences"].items()]),
        "## Codec",
        "",
        *_table(["setting", "value"], [[name, value] for name, value in codec.items()]),
        "## Reading",
        "",
        "Plain WebDataset tars: `KEY.npy` is uint8 [channels, bands, frames] (row 0 = highest frequency), "
        "`KEY.json` has species, labels with times, captions, licence and more.",
        "",
        "```python",
        "import webdataset",
        f'dataset = webdataset.WebDataset("{first.name}", shardshuffle=False).decode()',
        "```",
        "",
        f"Left out: {facts['problems']} recordings or labels, {facts['skipped']} clips; see `problems.json`.",
    ]
    return "\n".join(lines) + "\n"


def _table(head: list[str], rows: list[list[Any]]) -> list[str]:
    def line(cells: list[Any]) -> str:
        return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    return [line(head), "|" + "---|" * len(head), *(line(row) for row in rows), ""]
