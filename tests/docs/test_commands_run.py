"""The documented commands really run, in a world of small models; those that cannot have a reason."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from birdsd.evaluation.judges import find_judge
from tests.docs import world
from tests.docs.commands import OF_OWN_PACKAGES, ROOT, Command, documented, parsed

COMMANDS = [one for one in documented() if one.words[0] == "birdsd"]
RUN = [
    one
    for one in COMMANDS
    if not one.inline and not world.excepted(one.words) and one.place not in OF_OWN_PACKAGES
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder in which the commands are typed."""
    before, environment = Path.cwd(), dict(os.environ)
    folder = tmp_path_factory.mktemp("world")
    os.chdir(folder)
    try:
        world.make(folder)
        yield folder
    finally:
        os.chdir(before)
        os.environ.clear()
        os.environ.update(environment)


@pytest.mark.slow
@pytest.mark.parametrize("command", RUN, ids=str)
def test_it_runs(command: Command, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if command.words[1] == "judge" and find_judge() is None:
        pytest.skip("BirdNET is not installed")
    status = world.run(world.typed(command.words))
    said = capsys.readouterr()
    # doctor ends with 1 where it has found something, as it does without Slurm.
    assert status == 0 or (status == 1 and command.words[1] == "doctor"), said.err[-1500:]
    # Where a log is empty, what is said of the run goes to stderr.
    assert said.out.strip() or (command.words[1] == "logs" and "finished" in said.err)


def test_most_commands_run_and_the_others_have_a_reason_that_holds() -> None:
    assert len(RUN) > 40
    verbs = {one.words[1] for one in RUN}
    assert verbs >= {
        "run",
        "submit",
        "status",
        "logs",
        "report",
        "pack",
        "unpack",
        "plan",
        "doctor",
        "inspect",
    }
    texts = [" ".join(one.words) for one in COMMANDS]
    for pattern, why in world.EXCEPTIONS.items():
        assert any(re.search(pattern, text) for text in texts), f"no command is like {pattern} any more"
        for name in why.split():
            if name.startswith("tests/"):
                assert (ROOT / name.rstrip(".,")).exists(), name


def test_a_command_that_fails_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parsed(["inspect", "shards/"]) is not None, "it can be typed"
    assert world.run(world.typed(("birdsd", "inspect", "shards/"))) == 2
    assert world.run(world.typed(("birdsd", "runn"))) == 2
