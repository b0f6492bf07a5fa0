"""What is in a folder of shards: the facts behind `birdsd inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from birdsd.errors import UserError
from birdsd.files import read_json
from birdsd.shards.checks import check_pictures, lacking
from birdsd.shards.index import ShardIndex
from birdsd.shards.summary import count_samples
from birdsd.sound.codec.protocol import Codec

_PROBLEMS_SHOWN = 20


def describe(folder: Path | str, verify: bool = False) -> dict[str, Any]:
    """The facts of a set of shards, as JSON-able values. With `verify` everything is read and checked, and
    "damaged" lists what does not fit (empty: all is well)."""
    folder = Path(folder)
    index = ShardIndex.open(folder)
    own = "splits" in index.dataset
    counted = {k: v for k, v in index.dataset.items() if k != "shards"} if own else count_samples(index)
    left_out = _left_out(folder)
    if not own:
        counted |= _doubtful(index)
    facts: dict[str, Any] = {
        "folder": str(folder),
        "written_by": "others (indexed by birdsd)",
        **counted,
        "fingerprint": index.fingerprint,
        "shards": {split: len(index.shards(split)) for split in index.splits},
        "bytes": sum(shard.size for split in index.splits for shard in index.shards(split)),
        "codec": index.codec,
        "problems": left_out.get("problems", []),
        "skipped_clips": left_out.get("skipped_clips", []),
    }
    if verify:
        facts["damaged"] = list(index.verify())
    return facts


def _doubtful(index: ShardIndex) -> dict[str, Any]:
    """What to know of a set that others wrote: samples without a picture, and why none can be read."""
    try:
        some, problem = check_pictures(index), ""
    except UserError as error:
        some, problem = [], str(error)
    without = [str(gap) for gap in lacking(index) if gap.part == "image"]
    return {"lacking": [*without, *some], "pictures": problem}


def _left_out(folder: Path) -> dict[str, Any]:
    path = folder / "problems.json"
    found = read_json(path) if path.is_file() else {}
    return found if isinstance(found, dict) else {}


def text(facts: dict[str, Any]) -> str:
    """The facts as a page for people."""
    lines = [f"{facts['folder']}  ({facts['written_by']}, fingerprint {facts['fingerprint']})", ""]
    lines += ["split         samples  recordings   hours  shards"]
    for split, counts in facts["splits"].items():
        lines.append(
            f"{split:12} {counts['samples']:8} {counts['recordings']:11} {counts['hours']:7.2f} "
            f"{facts['shards'][split]:7}"
        )
    lines += ["", *species_table(facts)]
    if codec := facts["codec"]:
        lines += [
            "",
            f"codec     {codec['name']}: {Codec.from_json(codec).description}",
        ]
    else:
        lines += ["", "codec     unknown (no codec.json next to the shards)"]
    lines.append(f"image     {facts.get('image_shape')}")
    lines.append(f"size      {facts['bytes'] / 1e6:.1f} MB")
    if facts.get("pictures"):
        lines.append(f"problem   {facts['pictures']}")
    lines += [f"attention {problem}" for problem in facts.get("lacking", ())]
    if wordless := facts.get("without_caption"):
        lines.append(f"attention {wordless} samples have no caption: they are trained without one")
    for name, label in (("licences", "licence"), ("environments", "mixed in")):
        lines += [f"{label:9} {key} ({count} samples)" for key, count in facts[name].items()]
    if count := facts.get("over_background"):
        lines.append(f"mixed in  what lies between the songs of other recordings ({count} samples)")
    if facts["synthetic"]:
        lines.append(f"synthetic {facts['synthetic']} samples are of synthetic birds, not of real ones")
    if problems := facts["problems"]:
        lines += ["", f"left out: {len(problems)} (problems.json has them all)"]
        lines += [f"  {entry['path']}: {entry['reason']}" for entry in problems[:_PROBLEMS_SHOWN]]
    if skipped := facts["skipped_clips"]:
        lines.append(f"skipped clips: {len(skipped)}")
    if "damaged" in facts:
        damaged = facts["damaged"]
        theirs = "lacking" in facts
        whole = "every sample can be read" if theirs else "all checksums match"
        lines += ["", f"checked: {len(damaged)} damaged" if damaged else f"checked: {whole}"]
        lines += [f"  {problem}" for problem in damaged[:_PROBLEMS_SHOWN]]
    return "\n".join(lines)


def species_table(facts: dict[str, Any]) -> list[str]:
    """Lines with the samples (and recordings) of each species in each split."""
    splits = list(facts["splits"])
    width = max([len(name) for name in facts["species"]] + [12]) + 1
    cut_again = any("songs" in c for counts in facts["species"].values() for c in counts.values())
    wide = 7 if cut_again else 0
    lines = [f"{'species':{width}}" + "".join(f"{split:>{18 + wide}}" for split in splits)]
    for name, counts in facts["species"].items():
        cells = [counts.get(split, {"samples": 0, "recordings": 0}) for split in splits]
        line = f"{name:{width}}"
        for c in cells:
            songs = f"{c.get('songs', 0):5}, " if cut_again else ""
            line += f"{c['samples']:10} ({songs}{c['recordings']:4}) "
        lines.append(line)
    for key, words in (("no_bird", "(no bird)"), ("not_stated", "(not stated)")):
        if counts := facts.get(key):
            lines.append(
                f"{words:{width}}" + "".join(f"{counts.get(s, 0):10}" + " " * (8 + wide) for s in splits)
            )
    of = "songs and recordings" if cut_again else "recordings"
    return [*lines, f"samples, and in brackets the {of} they come from"]
