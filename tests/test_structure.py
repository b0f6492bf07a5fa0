"""The walls of the house: which room may import which, and how large a file or function may grow."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BASE = {"errors", "files", "randomness", "schema", "config", "values", "yamltext"}
MAY_IMPORT = {
    "errors": set(),
    "files": {"errors"},
    "randomness": set(),
    "schema": set(),
    "yamltext": set(),
    "values": {"errors", "yamltext"},
    "config": {"errors", "files", "schema", "values"},
    "sound": BASE,
    "shards": BASE | {"sound"},
    "diffusion": BASE | {"sound", "shards"},
    "training": BASE | {"sound", "shards", "diffusion"},
    "evaluation": BASE | {"sound", "shards", "diffusion"},
    "cluster": BASE | {"sound", "shards", "diffusion", "training", "evaluation"},
    "jobs": BASE | {"sound", "shards", "diffusion", "training", "evaluation", "cluster"},
    "cli": BASE | {"sound", "shards", "diffusion", "training", "evaluation", "cluster", "jobs"},
}


def source_files() -> list[Path]:
    return sorted([*ROOT.glob("birdsd/**/*.py"), *ROOT.glob("jobs/*.py")])


def room_of(path: Path) -> str:
    parts = path.relative_to(ROOT).parts
    return parts[0] if parts[0] == "jobs" else Path(parts[1]).stem


def imported_rooms(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the room they come from"
            names.add(node.module or "")
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return {name.split(".")[1] for name in names if name.startswith("birdsd.")} & set(MAY_IMPORT)


@pytest.mark.parametrize("path", source_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way_and_sizes_stay_readable(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    room = room_of(path)
    if room != "__init__":
        assert imported_rooms(tree) <= MAY_IMPORT[room] | {room}
    assert text.count("\n") <= 500
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= 80, f"{node.name} has {length} lines"


def test_a_wrong_import_would_be_seen() -> None:
    assert imported_rooms(ast.parse("from birdsd.training import loop")) - MAY_IMPORT["sound"] == {"training"}
    assert imported_rooms(ast.parse("import birdsd.runs.run")) == {"cluster"}


def test_the_command_line_imports_nothing_heavy() -> None:
    heavy = ["torch", "numba", "librosa", "matplotlib", "diffusers", "transformers", "deepspeed", "hydra"]
    heavy += ["scipy", "sklearn", "pandas"]
    script = f"import sys, birdsd.cli.main; print([m for m in {heavy} if m in sys.modules])"
    seen = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert seen.stdout.strip() == "[]"
