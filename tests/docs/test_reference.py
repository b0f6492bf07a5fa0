"""The pages made from the code hold all of it: every key, preset and verb, with what the code says of it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

import pytest

from birdsd import config, schema
from birdsd.diffusion import method_configs
from birdsd.schema import machine
from docs.tools import reference
from tests.docs.commands import check, commands_in

JOBS = (*schema.JOBS, schema.SUBMIT)


def table(page: str) -> dict[str, list[str]]:
    """The cells beside each key of a job's page; a bar inside a cell is escaped there."""
    found: dict[str, list[str]] = {}
    for line in page.splitlines():
        if line.startswith("| `"):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            assert len(cells) == 5, line
            found[cells[0].strip("`")] = cells[1:]
    return found


@pytest.mark.parametrize("job", JOBS)
def test_every_key_of_every_job_stands_on_its_page_once(job: str) -> None:
    page = reference.job_page(job)
    names = re.findall(r"^\| `([\w.]+)` \|", page, re.MULTILINE)
    assert sorted(names) == sorted(name for name, _ in config.keys(config.job_type(job)))
    assert config.job_line(job).rstrip(".") in page
    for command in commands_in(f"jobs/{job}.md", page):
        check(command)


@pytest.mark.parametrize("job", JOBS)
def test_defaults_are_those_of_the_schema_and_of_the_presets(job: str) -> None:
    cells = table(reference.job_page(job))
    starts = reference.settled(job)
    for name, default in config.keys(config.job_type(job)):
        _, shown, start, _ = cells[name]
        if isinstance(default, (int, float)) and not isinstance(default, bool):
            assert shown == f"`{default}`", name
        elif default is None:
            assert shown == "`null`", name
        assert bool(start) == (starts[name] != default), name
        if start and isinstance(starts[name], (int, float)) and not isinstance(starts[name], bool):
            assert start == f"`{starts[name]}`", name


def test_every_comment_of_the_schema_is_the_meaning_of_its_key() -> None:
    text = "".join(
        Path(one.__file__).read_text(encoding="utf-8") for one in (schema, machine, method_configs)
    )
    comments = re.findall(r"^    (\w+): [^#\n]+  # (.+)$", text, re.MULTILINE)
    assert len(comments) > 80
    rows = "\n".join(reference.job_page(job) for job in JOBS)
    for name, comment in comments:
        shown = reference._cell(comment)
        assert re.search(rf"^\| `[\w.]*\b{name}` \|.*{re.escape(shown)}", rows, re.MULTILINE), (name, comment)


def test_methods_and_advice_stand_beside_the_keys() -> None:
    cells = table(reference.job_page("train"))
    assert "only with `dreambooth` on `lora`, `lora`" in cells["method.rank"][3]
    assert "only with `dreambooth`*" in cells["method.class_word"][3]
    assert "only with" not in cells["method.species_balance"][3] + cells["method.name"][3]
    assert "else `0.0001`" in cells["optim.learning_rate"][3]
    assert cells["optim.learning_rate"][2] == f"`{config.compose('train').optim.learning_rate}`"


@dataclass
class Inner:
    """What lies below."""

    depth_m: float = 1.5  # how deep; 0: no <limit> | none


@dataclass
class Base:
    mark: str = "# no comment"
    inherited: int = 1  # from the class above


@dataclass
class Toy(Base):
    """a toy of a job"""

    # fmt: off
    new_key: Optional[int] = None  # noqa: UP045  # null: as it comes
    inherited: int = (
        2  # said anew
    )
    # fmt: on
    inner: Inner = field(default_factory=Inner)


def test_a_key_that_is_added_is_on_its_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(schema.JOBS, "toy", Toy)
    monkeypatch.setitem(schema.GROUP_DEFAULTS, "toy", {})
    starts, real = {"new_key": 3, "mark": "x", "inherited": 2, "inner.depth_m": 1.5}, reference.settled
    monkeypatch.setattr(reference, "settled", lambda job: starts if job == "toy" else real(job))
    pages = reference.pages()
    cells = table(pages["jobs/toy.md"])
    assert cells["new_key"][:3] == [f"{cells['inherited'][0]}, or null", "`null`", "`3`"]
    assert "null: " in cells["new_key"][3]
    assert cells["mark"] == ["text", "`# no comment`", "`x`", ""]
    assert cells["inherited"] == ["whole number", "`2`", "", "said anew"]
    assert cells["inner.depth_m"] == ["number", "`1.5`", "", "how deep; 0: no &lt;limit> \\| none"]
    assert str(Inner.__doc__) in pages["jobs/toy.md"]
    assert f"| [toy](toy.md) | {Toy.__doc__} |" in pages["jobs/index.md"]


def test_every_preset_is_shown_with_its_file(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    mine = tmp_path / "machine" / "secret-machine.yaml"
    mine.parent.mkdir()
    mine.write_text("# Mine alone.\nmicro_batch: 4\n")
    monkeypatch.setenv("BIRDSD_CONFIGS", str(tmp_path))
    page = reference.presets_page()
    files = sorted(config.config_folder().glob("*/*.yaml"))
    assert len(files) > 20
    for path in files:
        assert f"`{path.parent.name}={path.stem}`](#" in page
        assert path.read_text(encoding="utf-8").strip() in page
    assert "secret-machine" not in page, "presets of whoever builds the site are not on it"


def test_every_verb_is_shown_with_its_help() -> None:
    page = reference.commands_page()
    told = dict(reference.verbs())
    assert {"run", "submit", "status", "doctor", "site detect", "cache-models"} <= set(told)
    for name, parser in told.items():
        assert f"## birdsd {name}\n" in page
        for action in parser._actions:
            assert all(option in page for option in action.option_strings)
