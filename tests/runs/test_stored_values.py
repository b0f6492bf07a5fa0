"""What was written down stays what it is, to the character: in a site's file, on resume, from a stored value
to a setting and back, and as a word of the job's shell."""

from __future__ import annotations

import random
import subprocess
from dataclasses import asdict
from pathlib import Path

import pytest

from birdsd.cluster.resume import _where_to
from birdsd.cluster.script_lines import resolved, setup_lines, shell_value
from birdsd.cluster.submit import new_submission, submit
from birdsd.config import altered, changed, compose
from birdsd.errors import BadValue, Damaged, UnknownName, UserError
from birdsd.runs.allocations import Submission
from birdsd.runs.run import Run
from birdsd.schema import SubmitConfig
from birdsd.values import as_setting
from birdsd.yamltext import flow, load, typed
from tests.support.errors import refuses
from tests.support.toy import make_shards

ODD = [
    "0012", "16:00", "12:00:00", "yes", "off", "1.10", "1_000", "1e3", "0x10", "2024-01-01", "birds # 1",
    "null", '"null"', '""null""', "Null", "~", "", " a", "a ", "a: b", "a:", "[x]", "{y}", "${z}", "$z",
    "\\${z}", "\\\\${z}", "${oc.env:HOME}", "???", "'q'", '"q"', 'a"b\'c', "back\\slash", "two\nlines",
    "tab\there", "100%", "%j", "\u00fcbers\u00e4e", "\u9ce5", "\U0001f426", "\u2028", "\x85", "-", "- a",
    "!tag", "&a", "*a", "? k", "@x", "`id`", "$(id)", "=", "a=b", ",", "|", ">", "true", "True", "3", "-1",
    ".5", "inf", ".nan", "\ufeff",
]  # fmt: skip


def drawn(number: int) -> str:
    """Text of the characters that YAML, OmegaConf and shells care about, and some others."""
    draw = random.Random(number)
    letters = "${}[]()'\"\\#:,-?!%~&*|>@`=. \n\t" * 3 + "abnul019eE_\u00e9\u2028\x85\x7f\x01\ue000\U0001f426"
    return "".join(draw.choice(letters) for _ in range(draw.randrange(9)))


TEXTS = [*ODD, *(drawn(number) for number in range(300))]
FEW = TEXTS[: len(ODD) + 5]  # where each takes a composition of its own


def test_flow_yaml_gives_every_value_back() -> None:
    for text in TEXTS:
        value = {
            "k": [text, {text: 1.5}],
            "n": None,
            "b": True,
            "i": -3,
            "f": 1e-05,
            "g": 1e16,
            "h": float("inf"),
        }
        assert typed(load(flow(value))) == value, repr(text)


def test_a_stored_submission_is_changed_in_one_setting_and_in_nothing_else() -> None:
    stored = SubmitConfig(nodes=3)
    site = stored.site
    site.name, site.partition, site.account = "x", "0012", "1e3"
    site.setup, site.modules = list(TEXTS), list(TEXTS)
    site.environment = {f"V{number}": text for number, text in enumerate(TEXTS)}
    site.sbatch = {f"o{number}": text for number, text in enumerate(TEXTS)} | {
        "hold": True,
        "exclude": ["a", "b"],
    }
    plain = asdict(stored)
    last = Submission("s", "train", [], plain, 0.0, "/", "python")
    told, _ = _where_to(last, ["site.time_limit_min=30"])
    assert told["site"].pop("time_limit_min") == 30
    plain["site"].pop("time_limit_min")
    assert told == plain


def test_one_stored_word_survives() -> None:
    """Each by itself, in a field of its own: a list could hide that one text spoils another."""
    for text in FEW:
        stored = SubmitConfig()
        stored.site.name, stored.site.qos, stored.site.scratch = "x", text, text
        told = changed("submit", asdict(stored), ["nodes=2"])
        assert (told.site.qos, told.site.scratch, told.nodes) == (text, text, 2)


def test_settings_made_of_values_are_read_back_as_these_values() -> None:
    """The way of packs, comparisons and pages: a value becomes `key=value`, which `compose` reads."""
    for text in FEW:
        settings = [
            as_setting("name", text),
            "method=textual_inversion",
            as_setting("data.species", [text, "b"]),
            as_setting("method.style_token", text),
            as_setting("model.text", {"k": text, "deep": {"list": [1, text, None, True]}}),
        ]
        config = compose("train", settings)
        assert config.name == text
        assert config.data.species == [text, "b"]
        assert config.method.style_token == text
        assert config.model.text["k"] == text and config.model.text["deep"] == {"list": [1, text, None, True]}
    assert compose("train", [as_setting("name", None)]).name is None


def test_a_grid_changes_one_setting_and_leaves_odd_text_alone() -> None:
    for text in FEW:
        config = compose("generate", [as_setting("prompt", [text]), as_setting("negative_prompt", text)])
        other = altered("generate", config, "steps", "7")
        assert (other.prompt, other.negative_prompt, other.steps) == ([text], text, 7), repr(text)


def test_values_on_an_axis_are_words_and_every_character_survives() -> None:
    from birdsd.studies.grid import _values, _with

    assert _values("[0012, yes, 16:00, 'a, b', ~, 1e3]") == ["0012", "yes", "16:00", "a, b", "", "1e3"]
    config = compose("generate")
    for text in ["a \U0001f426 singing", "${x}", '"q"', "a\\b"]:
        assert _with(config, "prompt", text).prompt == [text]


# -- a site's file ------------------------------------------------------------------------------------------


def site_file(folder: Path, text: str) -> str:
    path = folder / "uni.yaml"
    path.write_text(f"# a site\npartition: normal\n{text}", encoding="utf-8")
    return f"site={path}"


def test_words_of_a_site_file_stay_as_they_are_written(tmp_path: Path) -> None:
    told = compose("submit", [site_file(tmp_path, """
account: 0123
qos: 1e3
constraint: on
gpus_per_node: 2
memory_gb_per_node: 1e2
offline: off
scratch: ~
modules: [cuda/12, 1.10, no]
sbatch:
  time-min: 12:00:00
  begin: 16:00
  comment: "my project: birds # 1"
  kill-on-invalid-dep: yes
  exclusive: true
  wait: false
  exclude: n[3-4]
  nice: 0012
environment:
  CODE: 0012
  START: 16:00
  USE_IT: yes
  VERS: 1.10
  EMPTY:
  BIG: 1_000
  DAY: 2024-01-01
  QUOTED: "0012"
""")]).site  # fmt: skip
    assert (told.account, told.qos, told.constraint, told.scratch) == ("0123", "1e3", "on", None)
    assert (told.gpus_per_node, told.memory_gb_per_node, told.offline) == (2, 100.0, False)
    assert told.modules == ["cuda/12", "1.10", "no"]
    assert told.sbatch == {
        "time-min": "12:00:00", "begin": "16:00", "comment": "my project: birds # 1",
        "kill-on-invalid-dep": "yes", "exclusive": True, "wait": False, "exclude": "n[3-4]", "nice": "0012",
    }  # fmt: skip
    assert told.environment == {
        "CODE": "0012", "START": "16:00", "USE_IT": "yes", "VERS": "1.10", "EMPTY": "", "BIG": "1_000",
        "DAY": "2024-01-01", "QUOTED": "0012",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "named", "kind"),
    [
        ("time_limit_min: 1:30\n", "time_limit_min: 1:30", BadValue),
        ("cpus_per_task: 0x10\n", "cpus_per_task: 0x10", BadValue),
        ("nodes: 2\n", "nodes", UnknownName),
        ("setup: [a]\nsetup: [b]\n", "setup", Damaged),
        ("environment: {A: [1, 2]}\n", "A", BadValue),
        ("environment: [A]\n", "environment", BadValue),
        ("modules: {a: 1}\n", "modules", BadValue),
        ("sbatch: {a\n", "uni.yaml", Damaged),
    ],
)
def test_what_no_field_takes_is_refused_by_name_in_a_line(
    tmp_path: Path, text: str, named: str, kind: type[UserError]
) -> None:
    with pytest.raises(kind) as told:
        compose("submit", [site_file(tmp_path, text)])
    assert "uni.yaml" in str(told.value) or named in str(told.value)
    assert named in str(told.value)
    assert len(str(told.value)) < 700


def test_ones_own_model_preset_means_its_numbers(tmp_path: Path) -> None:
    """1e-4 is no text, and 0012 no eight-based ten."""
    path = tmp_path / "mine.yaml"
    path.write_text("# m\nsource: runs/0012\nrecommended:\n  full: {learning_rate: 1e-4, global_batch: 16}\n")
    config = compose("train", [f"model={path}", "model.init=scratch"])
    assert config.optim.learning_rate == 1e-4 and config.optim.global_batch == 16
    assert config.model.source == "runs/0012"


def test_settings_of_a_site_on_the_command_line_are_words_too() -> None:
    told = compose("submit", [
        "site=testbed", "site.environment.A=0012", "site.environment.B=yes", "site.environment.C=[x]",
        "site.environment.D=a: b # c", 'site.environment.E="0012"', "site.sbatch.begin=16:00",
        "site.sbatch.hold=true", "site.sbatch.wait=false", "site.setup=[0012, yes, 'a # b']",
    ]).site  # fmt: skip
    environment = {key: told.environment[key] for key in "ABCDE"}
    assert environment == {"A": "0012", "B": "yes", "C": "[x]", "D": "a: b # c", "E": "0012"}
    assert told.sbatch == {"begin": "16:00", "hold": True, "wait": False}
    assert told.setup == ["0012", "yes", "a # b"]


# -- in the job's shell -------------------------------------------------------------------------------------


def bash(lines: list[str], **variables: str) -> str:
    done = subprocess.run(
        ["bash", "-c", "\n".join(lines)], capture_output=True, text=True, check=True,
        env={"PATH": "/usr/bin:/bin", **variables},
    )  # fmt: skip
    return done.stdout


def test_a_word_without_variables_is_itself_in_the_shell() -> None:
    plain = [text for text in TEXTS if "$" not in text]
    told = bash([f"printf '%s\\0' {shell_value(text)}" for text in plain])
    assert told.split("\0")[:-1] == plain == [resolved(text, {}) for text in plain]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("$SCRATCH/hf", "/s c/hf"),
        ("${SCRATCH}/hf", "/s c/hf"),
        ("${NONE:-/tmp}/x", "/tmp/x"),
        ("${SCRATCH:+there}", "there"),
        ("${NONE}a$NONE", "a"),
        ("\\$SCRATCH", "$SCRATCH"),
        ("$SCRATCH $(touch pwned) `touch pwned` \"'", "/s c $(touch pwned) `touch pwned` \"'"),
        ("${SCRATCH:-$(touch pwned)}", "${SCRATCH:-$(touch pwned)}"),
        ("cost $5 of ${1} $", "cost $5 of ${1} $"),
        ("a\\b$SCRATCH\\n", "a\\b/s c\\n"),
    ],
)
def test_variables_mean_what_a_shell_means_and_nothing_else_runs(
    tmp_path: Path, text: str, said: str
) -> None:
    told = bash([f"cd {tmp_path}", f"printf %s {shell_value(text)}"], SCRATCH="/s c")
    assert told == said == resolved(text, {"SCRATCH": "/s c"})
    assert not (tmp_path / "pwned").exists()


def test_a_site_file_with_shell_variables_makes_a_script_that_resolves_them(tmp_path: Path) -> None:
    site = site_file(tmp_path, """
modules: ["cuda/${CUDA}"]
setup:
  - source ${HOME}/.secrets.sh
  - export MYDIR="${SCRATCH:-/tmp}/x"
environment:
  HF_HOME: ${SCRATCH}/hf
  CACHE: $MYDIR/cache
""")  # fmt: skip
    (tmp_path / ".secrets.sh").write_text("export SECRET=word\n")
    asked = compose("submit", [site])
    run = Run(tmp_path / "run", "0")
    submission = new_submission(run, "train", [], asdict(asked), "/")
    lines = [
        line
        for line in setup_lines(submission, run.folder)
        if line.startswith(("export", "source", "module"))
    ]
    told = bash(
        ["module() { echo module $2; }", *lines, 'echo "$SECRET $MYDIR $HF_HOME $CACHE"'],
        HOME=str(tmp_path), SCRATCH="/scratch/me", CUDA="12.1",
    )  # fmt: skip
    assert told.splitlines() == ["module cuda/12.1", "word /scratch/me/x /scratch/me/hf /scratch/me/x/cache"]


def test_options_of_sbatch_stand_in_the_script_as_written(tmp_path: Path) -> None:
    site = site_file(
        tmp_path, "sbatch: {time-min: 12:00:00, begin: 16:00, exclude: [n3, n4], hold: true, wait: false}\n"
    )
    shards = make_shards(tmp_path / "shards")
    script = submit(
        "train", [site, f"data.shards={shards}", f"runs={tmp_path / 'runs'}"], dry_run=True
    ).script
    for line in ("--time-min=12:00:00", "--begin=16:00", "--exclude=n3,n4", "--hold", "--export=ALL"):
        assert f"#SBATCH {line}" in script.splitlines(), line
    assert "--wait" not in script
    assert any("--export=ALL" in line for line in script.splitlines() if line.startswith("srun"))


@pytest.mark.parametrize("setting", ["site.sbatch.comment=a\ntouch pwned", "site.partition=a\ntouch pwned"])
def test_an_option_that_would_break_its_line_is_refused(tmp_path: Path, setting: str) -> None:
    shards = make_shards(tmp_path / "shards")
    told = ["site=testbed", setting, f"data.shards={shards}", f"runs={tmp_path / 'runs'}"]
    with refuses(setting.partition("=")[0], kind=BadValue):
        submit("train", told, dry_run=True)
