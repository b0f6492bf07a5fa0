"""Every command in README, docs/ and slurm/ can be typed: verbs, jobs, presets, keys, options, targets."""

from __future__ import annotations

import re

import pytest

from birdsd.cli import main
from docs.tools import reference
from tests.docs.commands import FOREIGN, Broken, Command, check, commands_in, documented, documents

COMMANDS = documented()


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_it_can_be_typed(command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setenv("BIRDSD_CONFIGS", str(tmp_path))
    check(command)


def test_commands_are_found_in_every_document_that_has_some() -> None:
    """Counted in another way: lines of blocks that begin with birdsd."""
    words = {one.words[:2] for one in COMMANDS}
    for place, text in documents().items():
        for language, block in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
            if language:
                continue
            lines = {tuple(line.split()[:2]) for line in re.findall(r"^birdsd [a-z-]+", block, re.MULTILINE)}
            assert lines <= words, place
    assert len(COMMANDS) > 100
    assert {one.words[0] for one in COMMANDS} > {"birdsd", "make", "python", "pip"}


def test_the_examples_of_the_help_can_be_typed() -> None:
    examples = re.findall(r"^  (birdsd .*?)(?:  .*)?$", main.EXAMPLES, re.MULTILINE)
    for _, parser in reference.verbs():
        examples += re.findall(r"^  (birdsd .*?)(?:  .*)?$", parser.epilog or "", re.MULTILINE)
    assert len(examples) > 30
    for example in examples:
        for command in commands_in("help", f"```\n{example}\n```\n"):
            words = tuple(re.sub(r"^site=\w+cluster$", "site=SITE", word) for word in command.words)
            words = tuple("SITE" if word == "mycluster" else word for word in words)
            check(Command("help", words))


@pytest.mark.parametrize(
    ("typed", "reason"),
    [
        ("birdsd runn train", "unknown verb 'runn'"),
        ("birdsd run trian", "unknown job 'trian'"),
        ("birdsd run train machine=laptop", "unknown preset of machine 'laptop'"),
        ("birdsd run train ... optim.lr=1", "unknown key"),
        ("birdsd run train optim.total_samples=many", "does not fit"),
        ("birdsd run train method=full method.rank=8", "method.rank"),
        ("birdsd run generate run=RUN prompt=x machine.micro_batch=2", "has no effect"),
        ("birdsd run train --qiet", "unknown option"),
        ("birdsd submit train site=SITE array=2", "array is set for train"),
        ("birdsd submit demo site=SITE", "demo cannot be submitted"),
        ("birdsd resume RUN nods=4", "unknown key"),
        ("birdsd plan train --gpus 8GB", "unknown option"),
        ("birdsd doctor train data.shard=shards/ --site SITE", "unknown key"),
        ("birdsd audit recordings/ codec=birdsnog", "unknown preset of codec"),
        ("birdsd verify machine=smok --kills 6", "unknown preset of machine"),
        ("birdsd export RUN --format a1112", "no format a1112"),
        ("birdsd cache-models model=sd51", "unknown preset of model"),
        ("birdsd report", "required"),
        ("make dmeo", "no target dmeo"),
        ("make demo RECORDING=x", "no variable RECORDING"),
        ("python -m bench.gpus", "no module"),
        ("python -m bench memroy", "takes no memroy"),
        ("python -m bench.gpu --kap-gib 3", "takes no --kap-gib"),
        ("pip install 'birdsd[birdnest]'", "no extra birdnest"),
        ("slurm/testbed/daemon.sh explode n1", "has no explode"),
        ("slurm/testbed/demon.sh kill n1", "there is no"),
        ("birdsd run generate prompt='a", "no shell can read"),
        ("birdsd presets\nbridsd status", "'bridsd' is none that is known"),
    ],
)
def test_a_broken_one_is_seen(typed: str, reason: str) -> None:
    with pytest.raises(Broken, match=re.escape(reason)):
        for command in commands_in("page.md", f"Some words.\n\n```\n{typed}\n```\n"):
            check(command)


def test_what_is_a_command_and_what_is_not() -> None:
    page = """See `birdsd status` and `data.shards`.

```
birdsd run train \\
    seed=1      # a comment; with birdsd in it
birdsd status; birdsd logs -f RUN
```

```text
birdsd run nonsense
```

```
labels  3 read
```

    make test
"""
    found = list(commands_in("page.md", page))
    assert [(one.words, one.inline) for one in found] == [
        (("birdsd", "run", "train", "seed=1"), False),
        (("birdsd", "status"), False),
        (("birdsd", "logs", "-f", "RUN"), False),
        (("make", "test"), False),
        (("birdsd", "status"), True),
    ]


def test_what_a_package_of_ones_own_adds_is_excused_on_its_page_alone() -> None:
    greeting = ("birdsd", "greet", "a", "robin")
    check(Command("docs/extending.md", greeting))
    with pytest.raises(Broken, match="unknown verb 'greet'"):
        check(Command("docs/memory.md", greeting))
    with pytest.raises(Broken, match="unknown key"):
        check(Command("docs/extending.md", ("birdsd", "run", "train", "no_key=1")))


def test_programs_that_are_not_checked_have_a_reason() -> None:
    used = {one.words[0] for one in COMMANDS}
    assert all(FOREIGN.values())
    assert {name for name in FOREIGN if name in used} >= {"wsl", "scontrol"}
