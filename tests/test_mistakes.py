"""What people mistype, through the real command line: a short sentence that helps, and exit status 2."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from birdsd.cli import main
from birdsd.errors import BadValue, UserError, clipped, likeness, listed_names, nearest, unknown_name

LONGEST = 400
# (what is typed, words that must be in the answer)
MISTAKES = [
    ("run trian", ["'trian'", "'train'"]),
    ("trian", ["'trian'", "birdsd run train"]),
    ("insepct x", ["'inspect'"]),
    ("run train lr=1e-4", ["'optim.learning_rate'", "birdsd run train --keys"]),
    ("run train optim.lr=1e-4", ["'optim.learning_rate'", "birdsd run train --keys"]),
    ("run train optim.learning_rat=1", ["'optim.learning_rate'"]),
    ("run train learning_rate=1", ["'optim.learning_rate'"]),
    ("run train optim.learningrate=1", ["'optim.learning_rate'"]),
    ("run train batch_size=8", ["optim.global_batch", "machine.micro_batch"]),
    ("run train epochs=3", ["'optim.total_samples'"]),
    ("run train max_train_steps=3", ["'optim.total_samples'"]),
    ("run train num_workers=3", ["'machine.reader_threads'"]),
    ("run train modle=tiny", ["'model'", "'modle'"]),
    ("run train data.shard=x", ["'data.shards'"]),
    ("run train machine=lapto", ["'laptop-4gb'", "birdsd presets"]),
    ("run train model=sd1.5", ["'sd15'"]),
    ("run train method=lroa", ["'lora'"]),
    ("run train machine=mine.yaml", ["machine=mine.yaml"]),
    ("run train optim.global_batch=many", ["optim.global_batch=many"]),
    ("run train machine", ["'machine'", "group=preset or key=value"]),
    ("run train data.shards=/nowhere", ["/nowhere"]),
    ("run generate guidence=3", ["'guidance'", "birdsd run generate --keys"]),
    ("run generate cfg_scale=3", ["'guidance'"]),
    ("run generate run=nothing prompt=x", ["nothing"]),
    ("run grid x=guidence=1,2 run=r prompt=x", ["guidance"]),
    ("run prepare codec=birdsongs", ["'birdsong'"]),
    ("run prepare data.overlp=1", ["'data.overlap'"]),
    ("run methods methods=[lroa] data=.", []),
    ("submit train node=2 site=local", ["'nodes'"]),
    ("submit train site=testbet", ["'testbed'"]),
    ("submit train site=local site.partion=x", ["'site.partition'"]),
    ("submit demo site=local", ["demo "]),
    ("plan trian", ["'train'"]),
    ("plan train --gpu H10O", ["--gpu H10O", "24GB"]),
    ("run train --kes", ["'--keys'"]),
    ("plan train --gpus 3", ["'--gpu'"]),
    ("verify --world=2 --kils 3", ["'--kills'"]),
    ("report one two three", ["unrecognised: two three"]),
    ("--verion", ["unrecognised: --verion"]),
    ("submit", ["required"]),
    ("status nothing", ["'nothing'"]),
    ("logs nothing", ["'nothing'"]),
    ("inspect /nowhere", ["/nowhere"]),
    ("audit . kodec=birdsong", ["codec=PRESET"]),
    ("run train " + "x" * 3000 + "=1", ["'xxx"]),
    ("run train optim.global_batch=" + "9" * 3000 + "x", ["optim.global_batch=999"]),
    ("run train " + "y" * 3000, ["'yyy", "group=preset or key=value"]),
    ("run train machine=" + "z" * 3000, ["'zzz", "machine"]),
]


@pytest.mark.parametrize(("typed", "words"), MISTAKES, ids=[typed[:60] for typed, _ in MISTAKES])
def test_a_mistake_gets_a_short_answer_that_helps(
    typed: str,
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BIRDSD_CONFIGS", str(tmp_path / "own"))
    try:
        status = main.main(typed.split(" "))
    except SystemExit as left:
        status = left.code if isinstance(left.code, int) else 1
    said = capsys.readouterr()
    answer = said.err.strip()
    assert status == 2 and not said.out
    assert "Traceback" not in answer and len(answer) <= LONGEST, answer
    for word in words:
        assert word in answer, answer


def test_a_real_process_of_its_own(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "birdsd.cli", "run", "train", "optim.lr=1"]
    root = str(Path(__file__).resolve().parents[1])
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": root}
    )
    assert done.returncode == 2 and done.stdout == "" and len(done.stderr) <= LONGEST
    assert done.stderr.count("\n") == 1 and "optim.learning_rate" in done.stderr


def test_many_names_are_never_all_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Runs, sites, partitions, species: a hundred of them, and the nearest three in the answer."""
    monkeypatch.chdir(tmp_path)
    for number in range(100):
        folder = tmp_path / "runs" / f"tiny-full-{number:04x}"
        folder.mkdir(parents=True)
        (folder / "signature.json").write_text(f'{{"signature": "{number:04x}", "job": "train"}}')
    assert main.main(["report", "tiny-full-0O1f"]) == 2
    answer = capsys.readouterr().err
    assert len(answer) <= LONGEST and "of 100" in answer and "birdsd status --all" in answer
    own = tmp_path / "own"
    (own / "site").mkdir(parents=True)
    for number in range(60):
        (own / "site" / f"cluster-{number}.yaml").write_text("# One of many.\npartition: gpu\n")
    monkeypatch.setenv("BIRDSD_CONFIGS", str(own))
    for words in (["site=clutser-17"], []):
        assert main.main(["submit", "train", *words]) == 2
        answer = capsys.readouterr().err
        assert len(answer) <= LONGEST, answer
        assert not words or "cluster-17" in answer


def test_a_wrong_key_in_a_preset_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("# Mine.\nmicro_bach: 4\n")
    assert main.main(["run", "train", "machine=mine.yaml"]) == 2
    answer = capsys.readouterr().err
    assert len(answer) <= LONGEST and "mine.yaml" in answer and "'micro_batch'" in answer


# -- the names ----------------------------------------------------------------------------------------------


def test_few_names_are_told_in_full_and_many_are_not() -> None:
    few = unknown_name("fruit", "aple", ["apple", "pear"])
    assert few.problem.endswith("fruit 'aple'") and few.expected.endswith(": apple, pear")
    assert "'apple'" in few.hint and "pear" not in few.hint
    names = [f"species {number}" for number in range(500)]
    many = unknown_name("species", "species 77x", names, whole="birdsd inspect SHARDS")
    assert (
        "species 77" in str(many) and "of 500" in many.expected and "birdsd inspect SHARDS" in many.expected
    )
    assert len(str(many)) < 250
    assert str(unknown_name("run", "x", [])).count(" none") == 1
    assert len(str(unknown_name("x", "n" * 999, ["m" * 999 + str(k) for k in range(9)]))) <= LONGEST


def test_names_in_a_message() -> None:
    assert listed_names([]) == "(none)" and listed_names("ab") == "a, b"
    assert listed_names(map(str, range(100))) == "0, 1, 2 and 97 more"
    assert listed_names(["a" * 80, "b" * 80, "c"]).endswith("c")
    assert listed_names([f"n{k}" for k in range(50)], "n49").startswith("n49, ")


def test_what_is_alike() -> None:
    keys = ["optim.learning_rate", "optim.epsilon", "model.init", "save.keep"]
    for typed in ("lr", "optim.lr", "Learning-Rate", "learnig_rate", "model.learning_rate"):
        assert nearest(typed, keys)[0] == "optim.learning_rate", typed
    assert likeness("model", "model") == 1.0 > likeness("modle", "model") > likeness("x", "model")
    assert clipped("a\n b") == "a b" and len(clipped("x" * 500)) == 60


def test_an_error_of_another_process_keeps_its_parts() -> None:
    import pickle

    error = unknown_name("key", "a", ["b"])
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, UserError) and str(again) == str(error)


def test_a_name_in_an_error_does_not_command_the_terminal() -> None:
    error = BadValue("event '\x1b[31mred\u202e\x00' is 3", "the rule", "the\tway\nout")
    assert str(error) == "event '\\x1b[31mred\\u202e\\x00' is 3. the rule. the\tway\nout."
    assert str(BadValue("\u9ce5 \u00c9vil \U0001f426")) == "\u9ce5 \u00c9vil \U0001f426."
