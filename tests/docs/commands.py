"""Every command in README, docs/ and slurm/, and what is wrong with one.

A block of commands begins with a program's name; then each of its lines is a command, or goes on
from the line above. Any other block is output, or a file.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from birdsd import config, schema
from birdsd.cli import main
from birdsd.errors import UserError
from birdsd.runs.effects import without_effect
from birdsd.site.choose import check_site

ROOT = Path(__file__).resolve().parents[2]
# Programs that are not ours, with the reason why nothing of their arguments is checked.
FOREIGN = {
    "wsl": "Windows",
    "git": "the address of a repository is the reader's",
    "cd": "a folder is the reader's",
    "rsync": "another machine",
    "srun": "Slurm", "sbatch": "Slurm", "sinfo": "Slurm", "squeue": "Slurm", "sacct": "Slurm",
    "scontrol": "Slurm", "scancel": "Slurm",
    "source": "the shell's own",
    "ls": "only looks",
}  # fmt: skip
OURS = ("birdsd", "make", "python", "python3", "pip")
# Pages about writing a package of one's own: what it adds is not here (tests/test_extending.py has one).
OF_OWN_PACKAGES = {
    "docs/extending.md": (
        "unknown verb",
        "unknown preset of method",
        "unknown preset of codec",
        "unknown judge",
    )
}
# What stands for something of the reader's, and what a check puts there.
FILLED = {"SITE": "testbed", "NAME": "testbed", "JOB": "train", "MORE": "200000", "N": "2"}
_FILLED = re.compile(rf"(?:(?<==)|^)({'|'.join(FILLED)})$")


@dataclass(frozen=True)
class Command:
    """One command, word by word, with the file it stands in; `inline`: in the middle of a sentence."""

    place: str
    words: tuple[str, ...]
    inline: bool = False

    def __str__(self) -> str:
        return f"{self.place}: {shlex.join(self.words)}"


class Broken(Exception):
    """A command that the reader cannot type, and why."""


def documents() -> dict[str, str]:
    """The text of every page that somebody wrote, by its place in the checkout."""
    paths = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("slurm/**/*.md"))]
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in paths}


def documented() -> list[Command]:
    """Every command of every document and of the help of every verb, each once."""
    found = [one for name, text in documents().items() for one in commands_in(name, text)]
    return list({(one.words, one.inline): one for one in reversed(found)}.values())[::-1]


def commands_in(place: str, markdown: str) -> Iterator[Command]:
    """The commands of one page: those of its blocks, then those inside its sentences."""
    fences = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
    for language, block in fences.findall(markdown):
        if language in ("", "bash", "sh", "console"):
            yield from _of_block(place, block)
    prose = fences.sub("", markdown)
    for block in re.findall(r"(?:^    .*\n)+", prose, re.MULTILINE):
        yield from _of_block(place, re.sub(r"^    ", "", block, flags=re.MULTILINE))
    for span in re.findall(r"`([^`]+)`", re.sub(r"^    .*\n", "", prose, flags=re.MULTILINE)):
        first = span.split()[0] if span.split() else ""
        if first in OURS and len(span.split()) > 1:
            for words in _split(place, span.replace("\n", " ")):
                yield Command(place, words, inline=True)


def _of_block(place: str, block: str) -> Iterator[Command]:
    lines = [line for line in re.sub(r"\\\n", " ", block).splitlines() if line.strip()]
    if not lines or not _is_program(lines[0].split()[0].rstrip(";")):
        return
    for line in lines:
        for words in _split(place, line):
            if not _is_program(words[0]):
                raise Broken(
                    f"{place}: {line!r} stands among commands, and {words[0]!r} is none that is known"
                )
            yield Command(place, words)


def _is_program(word: str) -> bool:
    return word in (*OURS, *FOREIGN) or bool(re.fullmatch(r"[\w/.-]+\.sh", word))


def _split(place: str, line: str) -> Iterator[tuple[str, ...]]:
    """The commands of a line as a shell reads them; a comment begins at a # that stands alone."""
    reader = shlex.shlex(line, posix=True, punctuation_chars=";")
    reader.whitespace_split, reader.commenters = True, ""
    words: list[str] = []
    try:
        while (word := reader.get_token()) not in ("#", None):  # a comment may hold an apostrophe
            words.append(word)
    except ValueError as error:
        raise Broken(f"{place}: no shell can read {line!r}: {error}") from error
    command: list[str] = []
    for word in [*words, ";"]:
        if word != ";":
            command.append(word)
        elif command:
            yield tuple(command)
            command = []


# -- what is wrong with one --------------------------------------------------------------------------------


def check(command: Command) -> None:
    """Raise `Broken` where a reader who types the command (with names of their own) gets an error."""
    words = [_FILLED.sub(lambda found: FILLED[found[1]], word) for word in command.words if word != "..."]
    words = [word for word in words if not re.search(r"^KEY=|=FILE\.yaml$", word)]
    try:
        _check(words, command.inline)
    except (UserError, Broken) as error:
        if not any(word in str(error) for word in OF_OWN_PACKAGES.get(command.place, ())):
            raise Broken(f"{command}: {error}") from error


def _check(words: Sequence[str], inline: bool) -> None:
    program, rest = words[0], list(words[1:])
    if program == "birdsd":
        check_birdsd(rest, inline)
    elif program == "make":
        _check_make(rest)
    elif program in ("python", "python3"):
        _check_module(rest)
    elif program == "pip":
        _check_pip(rest)
    elif program.endswith(".sh"):
        _check_script(program, rest)
    elif program not in FOREIGN:
        raise Broken(f"{program} is no program that is known")


def parsed(words: Sequence[str], inline: bool = False):
    """The options of `birdsd WORDS`, or None of an inline mention that leaves out what the verb needs."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            parser = main._parser()
            options, more = parser.parse_known_args(main._verb_checked(list(words)))
            if more and (not hasattr(options, "settings") or any(one.startswith("-") for one in more)):
                main._refuse(parser, list(words), more)
            if more:
                options.settings.extend(more)
    except SystemExit as left:
        if not left.code:  # --version, --help
            return None
        if inline and "the following arguments are required" in said.getvalue():
            return None
        raise Broken(said.getvalue().strip().splitlines()[-1]) from left
    return options


def check_birdsd(words: Sequence[str], inline: bool = False) -> None:
    """Whether the command line takes the words, and the job that they name its settings."""
    if inline and len(words) == 2 and words[0] == "run" and words[1] in schema.JOBS:
        return
    options = parsed(words, inline)
    if options is None or not words:
        return
    verb, settings = words[0], list(getattr(options, "settings", []))
    if verb == "run":
        settled = config.compose(options.job, settings)
        # What is meant for a GPU may be shown on a CPU, where it has nothing to do.
        lines = without_effect(options.job, settings, settled)
        if lines and "machine.device=cpu" not in settings:
            raise Broken("; ".join(lines))
    elif verb == "submit":
        where, what = config.split_settings(options.job, settings)
        if not inline:  # in a sentence the site may be left out
            check_site(config.compose(schema.SUBMIT, where), options.job)
        config.compose(options.job, what)
    elif verb == "plan" and options.job == "generate":
        of_model = [one for one in settings if one.startswith(("model=", "model."))]
        config.compose("train", of_model)
        config.compose("generate", [one for one in settings if one not in of_model])
    elif verb in ("plan", "resume"):
        job = options.job if verb == "plan" else "train"
        where, what = config.split_settings(job, settings)
        config.compose(schema.SUBMIT, where)
        config.compose(job, what)
    elif verb == "doctor":
        config.compose(schema.SUBMIT, [f"site={options.site}"] if options.site else [])
        config.compose(options.job or "train", settings)
    elif verb == "verify":
        config.compose("train", settings)
    elif verb == "audit":
        config.compose("prepare", settings)
    elif verb == "cache-models":
        config.compose("train", [word for word in options.models if "=" in word])
    elif verb == "export":
        from birdsd.diffusion.formats import FORMATS
        from birdsd.shards.exports import FORMATS as OF_SOUNDS

        if unknown := set(options.formats) - {*FORMATS, *OF_SOUNDS}:
            raise Broken(f"no format {', '.join(unknown)}")


def _check_make(words: Sequence[str]) -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in words:
        name, equals, _ = word.partition("=")
        there = f"$({name})" in text if equals else re.search(rf"^{re.escape(name)}:", text, re.MULTILINE)
        if not there:
            raise Broken(f"the Makefile has no {'variable' if equals else 'target'} {name}")


def _check_module(words: Sequence[str]) -> None:
    if words[0] != "-m" or words[1] == "venv":
        return
    module, rest = words[1], words[2:]
    if module == "http.server":
        return
    package = importlib.util.find_spec(module)
    if package is None:
        raise Broken(f"there is no module {module}")
    if package.submodule_search_locations is not None:
        package = importlib.util.find_spec(f"{module}.__main__")
    if package is None or package.origin is None:
        raise Broken(f"{module} is a folder without __main__.py")
    text = Path(package.origin).read_text(encoding="utf-8")
    for word in rest:
        known = f'"{word}"' in text
        if (word.startswith("-") or module == "bench") and not known:
            raise Broken(f"{module} takes no {word}")


def _check_pip(words: Sequence[str]) -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = text.partition("[project.optional-dependencies]\n")[2].partition("\n[")[0]
    known = set(re.findall(r"^(\w+) = ", section, re.MULTILINE))
    for extras in re.findall(r"(?:birdsd|\.)\S*\[([\w,]+)\]", " ".join(words)):
        if unknown := set(extras.split(",")) - known:
            raise Broken(f"birdsd has no extra {', '.join(unknown)}")


def _check_script(program: str, words: Sequence[str]) -> None:
    path = ROOT / program
    if not path.is_file():
        raise Broken(f"there is no {program}")
    if words and not re.search(
        rf"^ *{re.escape(words[0])}\)", path.read_text(encoding="utf-8"), re.MULTILINE
    ):
        raise Broken(f"{program} has no {words[0]}")
