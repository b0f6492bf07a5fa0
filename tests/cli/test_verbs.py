"""One way for all verbs: their help, --runs and --json, and what `submit --dry-run` answers."""

from __future__ import annotations

import json

import pytest

from birdsd.cli import main
from birdsd.cluster.submit import open_run
from birdsd.config import compose, split_settings
from birdsd.files import write_json
from birdsd.jobs_api import load_job
from tests.support.songs import codec as codec
from tests.support.songs import write_shards


def test_every_verb_has_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(main.OWN_VERBS) == 24
    for name, verb in main.OWN_VERBS.items():
        with pytest.raises(SystemExit) as left:
            main.main([name, "--help"])
        out = capsys.readouterr().out
        assert left.value.code == 0 and out.startswith(f"usage: birdsd {name} ")
        assert ("--json" in out) == verb.as_json, name
        assert ("--runs" in out) == verb.takes_runs, name
        assert verb.help


def test_a_dry_run_of_a_finished_run_says_that_it_is_finished(
    tmp_path, codec, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run is one that `submit` itself would find; nothing is submitted."""
    (tmp_path / "shards").mkdir()
    write_shards(tmp_path / "shards", codec, {"train": range(1)})
    monkeypatch.chdir(tmp_path)
    words = ["submit", "train", "site=local", "machine=smoke", "data.shards=shards", "optim.total_samples=8",
             "optim.global_batch=4", "--dry-run"]  # fmt: skip
    assert main.main(words) == 0
    script = capsys.readouterr().out
    run = open_run("train", words[3:-1])
    write_json(run.folder / "finished.json", {"position": 8})
    assert main.main(words) == 0
    out = capsys.readouterr().out
    assert script != out and run.folder.name in out and "finished" in out
    assert main.main([*words, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["job_ids"] == [] and facts["run"].endswith(run.folder.name) and "script" not in facts


@pytest.mark.parametrize(
    ("old", "new"), [("methods", "compare_methods"), ("four_ways", "finetune_vs_scratch")]
)
def test_the_old_name_of_a_job_still_works_and_says_what_it_is_called_now(
    old: str, new: str, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = {}
    for name in (old, new):
        assert main.main(["run", name, "--keys", "--json", "seed=3"]) == 0
        captured = capsys.readouterr()
        keys[name] = json.loads(captured.out)
        assert (new in captured.err) == (name == old)
    assert keys[old] == keys[new] and keys[new]["seed"] == 3
    assert load_job(old) is load_job(new) and compose(old) == compose(new)
    assert split_settings(old, ["site=local", "seed=1"]) == (["site=local"], ["seed=1"])
