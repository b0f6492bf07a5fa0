"""The walls of the house: which room may import which, and how large a folder, file or function may grow."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from birdsd import schema
from tests.conftest import LONGEST_S, pytest_collection_modifyitems
from tests.shape import (
    ROOT,
    circles,
    files_a_folder,
    graph_of,
    imported,
    module_name,
    package_names,
    room_of,
    rooms_graph,
    source_files,
)

PATHS, PACKAGES, GRAPH = source_files(), package_names(), graph_of()
KNOWN = set(GRAPH)
MOST_FILES, MOST_LINES, MOST_LINES_OF_A_FUNCTION = 13, 500, 80
# The modules at the top of birdsd/, which any room may import, and what those import of each other.
BASE = {
    "errors": set(),
    "randomness": set(),
    "remarks": set(),
    "schema": set(),
    "yamltext": set(),
    "quiet": set(),
    "format": set(),
    "files": {"errors"},
    "sharing": {"files"},
    "values": {"errors", "yamltext"},
    "plugins": {"errors", "schema"},
    "method_facts": {"errors", "plugins", "schema"},
    "config": {"errors", "files", "method_facts", "plugins", "schema", "values"},
    "workers": {"errors", "files"},
    "jobs_api": {"config", "quiet"},
}
# Every wing of the house, and which others it may look into.
WINGS = {
    "sound": set(),
    "shards": {"sound"},
    "diffusion": {"sound", "shards"},
    "training": {"sound", "shards", "diffusion"},
    "evaluation": {"sound", "shards", "diffusion"},
    "scenes": {"sound", "shards", "diffusion", "evaluation", "runs"},
    "site": set(),
    "runs": {"sound", "shards", "diffusion", "training", "site"},
    "planning": {"sound", "shards", "diffusion", "training", "site", "runs"},
    "cluster": {"training", "site", "runs"},
    "pages": {"sound", "shards", "training", "evaluation", "runs", "scenes"},
    "checks": {"sound", "shards", "diffusion", "training", "evaluation", "site", "runs", "cluster"},
    "studies": {
        "sound", "shards", "diffusion", "training", "evaluation", "site", "runs", "cluster", "pages",
        "scenes",
    },
    "ui": {"sound", "diffusion", "runs", "pages", "scenes"},
    "jobs": {
        "sound", "shards", "diffusion", "training", "evaluation", "site", "runs", "planning", "cluster",
        "pages", "studies", "scenes",
    },
    "cli": {
        "sound", "shards", "diffusion", "training", "evaluation", "site", "runs", "planning", "cluster",
        "pages", "checks", "studies", "ui", "jobs", "scenes",
    },
}  # fmt: skip
# The rooms from the ground up: a room imports only from those before it.
ORDER = (
    *BASE,
    "sound.audio", "sound.space", "sound.species", "sound.labels", "sound.codec", "sound.audit", "sound",
    "sound.separation", "sound.stems",
    "shards.storage", "shards", "shards.prepare", "shards.exports",
    "diffusion.networks", "diffusion", "diffusion.upscaling", "diffusion.generation", "diffusion.learning",
    "diffusion.classifiers", "diffusion.methods", "diffusion.formats",
    "training.devices", "training.batches", "training.engines", "training.checkpoints", "training",
    "evaluation.judges", "evaluation.classify", "evaluation", "evaluation.leakage",
    "evaluation.classification", "evaluation.embedded", "evaluation.sim2real",
    "scenes", "scenes.prose", "scenes.drawn",
    "site",
    "runs", "runs.models", "runs.pack", "runs.status",
    "scenes.heard", "scenes.bank", "scenes.backgrounds", "scenes.space", "scenes.compose", "scenes.canvas",
    "scenes.book",
    "planning",
    "cluster.rank", "cluster",
    "pages", "pages.comparison", "pages.run",
    "checks.verify", "checks",
    "studies", "studies.sim2real",
    "ui",
    "jobs",
    "cli.tables", "cli",
)  # fmt: skip


def too_high(room: str, targets: set[str]) -> set[str]:
    """Those rooms that stand above `room` in the house, or in a wing that it may not look into."""
    wing = room.partition(".")[0]
    if room in BASE:
        return targets - BASE[room]
    allowed = WINGS[wing] | {wing, *BASE}
    lower = set(ORDER[: ORDER.index(room)])
    return {one for one in targets if one not in lower or one.partition(".")[0] not in allowed}


@pytest.mark.parametrize("path", PATHS, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way_and_sizes_stay_readable(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    if room := room_of(module_name(path), PACKAGES):
        targets = {room_of(one, PACKAGES) for one in imported(tree, KNOWN)} - {room, ""}
        assert not too_high(room, targets)
    assert text.count("\n") <= MOST_LINES
    assert not too_long(tree)


def too_long(tree: ast.AST) -> dict[str, int]:
    """The functions with more lines than anyone reads at a glance."""
    lengths = {
        node.name: (node.end_lineno or 0) - node.lineno + 1
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }
    return {name: length for name, length in lengths.items() if length > MOST_LINES_OF_A_FUNCTION}


def test_no_circle_also_not_behind_imports_inside_functions() -> None:
    assert circles(GRAPH) == []
    assert circles(rooms_graph(GRAPH, PACKAGES)) == []


def test_no_folder_holds_more_than_one_can_take_in() -> None:
    full = {str(one.relative_to(ROOT)): n for one, n in files_a_folder(PATHS).items()}
    jobs = full.pop("jobs")  # a catalogue: a file for each job, found by its name
    assert jobs == len(schema.JOBS)
    assert {one: n for one, n in full.items() if n > MOST_FILES} == {}


def test_every_room_has_its_floor() -> None:
    rooms = {room_of(name, PACKAGES) for name in KNOWN} - {""}
    assert rooms <= set(ORDER)
    assert {room.partition(".")[0] for room in ORDER} == {*BASE, *WINGS}
    assert set(ORDER) - rooms == set(), "a room of the plan that is not there"


def test_a_wrong_import_would_be_seen() -> None:
    known = {
        "birdsd.training.loop",
        "birdsd.runs.run",
        "birdsd.cli.tables.status",
        "birdsd.runs.status.detail",
    }
    for text, room, target in (
        ("from birdsd.training import loop", "sound", "training"),
        ("from birdsd.training.loop import train", "sound.codec", "training"),
        ("import birdsd.runs.run", "site", "runs"),
        ("def f():\n    from birdsd.cli.tables.status import text", "runs.status", "cli.tables"),
        ("if TYPE_CHECKING:\n    from birdsd.runs.status.detail import RunDetail", "runs", "runs.status"),
    ):
        targets = {room_of(one, set()) for one in imported(ast.parse(text), known)}
        assert too_high(room, targets) == {target}
    assert too_high("runs.status", {"runs", "site", "files"}) == set()
    assert too_high("files", {"errors", "config"}) == {"config"}, "the base has an order too"
    with pytest.raises(AssertionError, match="relative"):
        imported(ast.parse("from .loop import train"), known)


def test_a_circle_would_be_seen(tmp_path: Path) -> None:
    """Of modules, behind a lazy import and one for types; and of rooms, where no two modules form one."""
    for name, text in {
        "birdsd/__init__.py": "",
        "birdsd/a/__init__.py": "",
        "birdsd/a/one.py": "def f():\n    from birdsd.a import two\n",
        "birdsd/a/two.py": "if TYPE_CHECKING:\n    from birdsd.a.one import f\n",
        "birdsd/b/__init__.py": "",
        "birdsd/b/low.py": "from birdsd.c.low import x\n",
        "birdsd/b/high.py": "",
        "birdsd/c/__init__.py": "",
        "birdsd/c/low.py": "",
        "birdsd/c/high.py": "from birdsd.b import high\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    modules, packages = graph_of(tmp_path), package_names(tmp_path)
    assert circles(modules) == [["birdsd.a.one", "birdsd.a.two"]]
    assert circles(rooms_graph(modules, packages)) == [["b", "c"]]
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert circles({"a": {"b", "c"}, "b": {"d"}, "c": {"d"}, "d": set()}) == [], "two ways are no circle"


def test_a_full_folder_and_a_long_function_would_be_seen(tmp_path: Path) -> None:
    room = tmp_path / "room"
    paths = [room / f"{number}.py" for number in range(MOST_FILES + 1)]
    assert files_a_folder([*paths, room / "__init__.py"]) == {room: MOST_FILES + 1}
    body = "    pass\n" * MOST_LINES_OF_A_FUNCTION
    assert too_long(ast.parse(f"def f():\n{body}")) == {"f": MOST_LINES_OF_A_FUNCTION + 1}


def test_the_command_line_imports_nothing_heavy() -> None:
    heavy = ["torch", "numba", "librosa", "matplotlib", "diffusers", "transformers", "deepspeed", "hydra"]
    heavy += ["scipy", "sklearn", "pandas"]
    script = f"import sys, birdsd.cli.main; print([m for m in {heavy} if m in sys.modules])"
    seen = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert seen.stdout.strip() == "[]"


def test_the_shape_can_be_printed() -> None:
    told = subprocess.run(
        [sys.executable, "-m", "tests.shape"], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    assert re.search(r"^circles .*modules.*: 0$", told, re.MULTILINE)
    assert "birdsd/runs/status" in told and "fullest folder: " in told and " 6 parameters: " in told


def plan_of_the_house() -> tuple[set[str], dict[str, set[str]]]:
    """docs/architecture.md: the files that it names, and its arrows between wings."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    arrows: dict[str, set[str]] = {}
    for one, other in re.findall(r"^  (\w+)(?:\[[^]]*\])? -(?:->|\. by name \.->) (\w+)", text, re.MULTILINE):
        arrows.setdefault(one, set()).add(other)
    named, folder = set(), ""
    for line in text.partition("```text\n")[2].partition("\n```")[0].splitlines():
        word = line.split()[0]
        folder = folder if line.startswith("  ") else word
        file = folder + word if line.startswith("  ") else f"{word}__init__.py"
        assert file not in named, f"{file} is listed twice"
        named.add(file)
    return named, arrows


def reached(arrows: dict[str, set[str]], start: str) -> set[str]:
    """Everything that the arrows lead to from `start`."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        new = arrows.get(waiting.pop(), set()) - found
        found |= new
        waiting.extend(new)
    return found


def test_the_plan_of_the_house_shows_what_is_there() -> None:
    named, arrows = plan_of_the_house()
    assert named == {str(path.relative_to(ROOT)) for path in PATHS}
    wings: dict[str, set[str]] = {}
    for room, targets in rooms_graph(GRAPH, PACKAGES).items():
        others = {one.partition(".")[0] for one in targets} - {room.partition(".")[0], *BASE}
        wings.setdefault(room.partition(".")[0], set()).update(others)
    for wing in WINGS:
        drawn = arrows.get(wing, set())
        assert drawn <= wings[wing] | ({"jobs"} if wing == "cli" else set()), f"{wing}: an arrow too many"
        assert wings[wing] <= reached(arrows, wing), f"{wing}: an arrow is missing"


def test_the_longest_test_files_are_there_and_begin() -> None:
    """What tests/conftest.py knows of them would go stale unseen where a file moves."""
    folder = ROOT / "tests"
    assert [name for name in LONGEST_S if not (folder / name).is_file()] == []
    named = ["test_format.py", *reversed(LONGEST_S), "test_config.py", "test_config.py"]
    items = [SimpleNamespace(path=folder / name) for name in named]
    pytest_collection_modifyitems(cast(Any, items))
    order = [item.path.relative_to(folder).as_posix() for item in items]
    assert order[-3:] == ["test_config.py", "test_config.py", "test_format.py"], "then those with more tests"
    assert [LONGEST_S[name] for name in order[:-3]] == sorted(LONGEST_S.values(), reverse=True)
