"""The notebook is clean, speaks of commands and settings that exist, and runs from top to bottom."""

from __future__ import annotations

import ast
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from birdsd import config
from birdsd.cli import main
from tests.notebook import NOTEBOOK, execute, strict

BOOK: dict[str, Any] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))


def sources(kind: str) -> list[str]:
    return ["".join(cell["source"]) for cell in BOOK["cells"] if cell["cell_type"] == kind]


def commands(source: str) -> list[str]:
    """The lines of a cell that call birdsd, those that go on below joined."""
    joined = source.replace("\\\n", " ")
    return re.findall(r"^\s*!?(birdsd .*)$", joined, re.MULTILINE)


def names_in(source: str, gpu: bool) -> dict[str, Any]:
    """What the cell of settings sets, with and without a GPU."""
    names: dict[str, Any] = {"GPU": gpu, "WORK": Path("work")}
    exec(source, names)
    return names


def settled(gpu: bool) -> dict[str, Any]:
    (cell,) = [source for source in sources("code") if source.startswith("RECORDINGS = ")]
    prompt = shlex.quote('prompt=["a Cetti\'s Warbler singing"]')
    names = {**names_in(cell, False), **names_in(cell, gpu)}
    return {**names, "HOME": Path("work/elsewhere"), "SAMPLES": names["SHARDS"], "PROMPTS": prompt}


def test_it_is_committed_clean() -> None:
    assert (BOOK["nbformat"], BOOK["metadata"]["kernelspec"]["name"]) == (4, "python3")
    ids = [cell["id"] for cell in BOOK["cells"]]
    assert len(set(ids)) == len(ids)
    for cell in BOOK["cells"]:
        assert cell["metadata"] == {}
        assert isinstance(cell["source"], list)
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
            assert len(cell["source"]) <= 20


def test_its_python_is_python() -> None:
    for source in sources("code"):
        joined = re.sub(r"\\\n", " ", source)
        ast.parse(re.sub(r"^(\s*)[!%].*$", r"\1pass", joined, flags=re.MULTILINE))


@pytest.mark.parametrize("gpu", [False, True])
def test_it_names_only_commands_and_settings_that_exist(gpu: bool) -> None:
    names = settled(gpu)
    lines = [line for kind in ("code", "markdown") for source in sources(kind) for line in commands(source)]
    assert len(lines) >= 12
    for line in lines:
        words = shlex.split(re.sub(r"\{(\w+)\}", lambda found: str(names[found[1]]), line))[1:]
        if words == ["--version"]:
            continue
        options = main._parser().parse_args(words)
        if words[0] == "run":
            config.compose(options.job, options.settings)
        elif words[0] == "submit":
            where, what = config.split_settings(options.job, options.settings)
            config.compose(options.job, what)
            assert {word.split("=")[0] for word in where} == {"site", "nodes"}


def test_a_command_that_fails_fails_its_cell() -> None:
    source = "if x:\n    !birdsd run \\\n        train\nprint(1)\n!birdsd status"
    assert strict(source).split("\n") == [
        "if x:",
        "    !birdsd run \\",
        "        train",
        "    assert _exit_code in (0, 75), _exit_code",
        "print(1)",
        "!birdsd status",
        "assert _exit_code in (0, 75), _exit_code",
    ]


@pytest.mark.slow
def test_it_runs_from_top_to_bottom(tmp_path: Path) -> None:
    """With fewer samples than `make notebook` takes."""
    pytest.importorskip("nbclient", reason="nbclient is not installed: `make notebook` needs it")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed: `make notebook` needs it")
    book = execute(tmp_path, quick=True)
    shown = [
        kind
        for cell in book.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.output_type in ("display_data", "execute_result")
        for kind in output.data
    ]
    assert shown.count("text/html") == 4  # players
    assert shown.count("image/png") == 6  # the contact sheet, the curve, four sounds
    assert (tmp_path / "birdsd" / "report.html").is_file()
