"""Errors as programs see them: kinds with a code each, which outlast every improvement of a sentence."""

from __future__ import annotations

import ast
import copy
import importlib
import json
import pickle
import re
from pathlib import Path

import pytest

from birdsd import errors
from birdsd.cli import main
from birdsd.errors import UserError
from birdsd.remarks import Remark, coded
from tests.support.errors import refuses
from tests.support.remarks import remarked

ROOT = Path(__file__).resolve().parents[1]
SENTENCE = re.compile(r"[a-z']{2,} [a-z']{2,} [a-z']{2,}")
# Scripts that read `--json` hold on to these: codes may be added, none may change.
CODES = {
    "UserError": "refused", "NotFound": "not-found", "AlreadyThere": "already-there", "Damaged": "damaged",
    "Mismatch": "mismatch", "UnknownName": "unknown-name", "BadValue": "bad-value", "NotSet": "not-set",
    "NothingLeft": "nothing-left", "Unsupported": "unsupported", "InUse": "in-use", "DiskFull": "disk-full",
    "RecordingError": "recording", "ShardError": "shard", "SlurmError": "slurm", "NotFinite": "not-finite",
}  # fmt: skip


def kinds() -> list[type[UserError]]:
    for name in ("sound.audio.source", "shards.storage.tarwalk", "site.slurm", "diffusion.networks.finite"):
        importlib.import_module(f"birdsd.{name}")
    own = [one for one in UserError.__subclasses__() if one.__module__.startswith("birdsd.")]
    return [UserError, *own]


def test_every_kind_of_error_has_the_code_that_it_had() -> None:
    assert {kind.__name__: kind.code for kind in kinds()} == CODES
    assert len(set(CODES.values())) == len(CODES)
    documented = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    assert [code for code in CODES.values() if not re.search(f'[`"]{code}[`"]', documented)] == []


def test_a_kind_comes_back_from_another_process_with_its_parts() -> None:
    for kind in kinds():
        back = pickle.loads(pickle.dumps(kind("a=1", "b=2", "c=3")))
        assert type(back) is kind
        assert back.to_json() == {"code": kind.code, "problem": "a=1", "expected": "b=2", "hint": "c=3"}


@pytest.mark.parametrize(
    ("typed", "code", "named"),
    [
        ("inspect {folder}/nowhere --json", "not-found", "nowhere"),
        ("status nothing --runs {folder} --json", "unknown-name", "'nothing'"),
        ("run prepare data=sogn --json", "unknown-name", "'sogn'"),
        ("run train optim.global_batch=many --json", "bad-value", "optim.global_batch=many"),
        ("run train method=full method.rank=4 --json", "mismatch", "method.rank=4"),
        ("run train --json", "not-set", "data.shards"),
        ("inspect {folder} --json", "nothing-left", "{folder}"),
    ],
)
def test_json_says_which_error_it_was(typed: str, code: str, named: str, tmp_path: Path, capsys) -> None:
    words = typed.format(folder=tmp_path).split()
    assert main.main(words) == 2
    said = capsys.readouterr()
    error = json.loads(said.out)["error"]
    assert error["code"] == code and named.format(folder=tmp_path) in error["problem"]
    assert said.err.startswith("birdsd: ") and error["problem"] in said.err
    assert main.main(words[:-1]) == 2 and not capsys.readouterr().out, "without --json the sentence alone"


def test_the_tests_own_helper_holds_kind_value_and_way_out() -> None:
    def refuse() -> None:
        raise errors.NotFound("no 'a'", "b is there", "try c=1")

    with refuses("'a'", "c=1", kind=errors.NotFound):
        refuse()
    for named, offers, kind in (
        ("'z'", (), errors.NotFound), ("'a'", ("c=2",), None), ("c=1", (), None), ("'a'", (), UserError),
    ):  # fmt: skip
        with pytest.raises(AssertionError), refuses(named, *offers, kind=kind):
            refuse()


def test_no_test_asks_an_error_for_its_sentence() -> None:
    """`refuses` holds the kind and what is named; whole messages are in tests/golden/texts.json."""
    found = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        name = path.relative_to(ROOT / "tests").as_posix()
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call):
                found += [f"{name}:{call.lineno}: {text}" for text in asked_of_an_error(call)]
    assert found == []


def asked_of_an_error(call: ast.Call) -> list[str]:
    """The sentences that `raises(KIND, match=...)` looks for, where KIND is a kind of `UserError`."""
    if not call.args or ast.unparse(call.args[0]).rpartition(".")[2] not in CODES:
        return []
    asked = [keyword.value for keyword in call.keywords if keyword.arg == "match"]
    texts = [one.value for part in asked for one in ast.walk(part) if isinstance(one, ast.Constant)]
    return [one for one in texts if isinstance(one, str) and SENTENCE.search(one)]


def test_such_a_sentence_is_found() -> None:
    asks = ast.parse('pytest.raises(errors.NotFound, match=r"the file a does not exist")', mode="eval").body
    assert isinstance(asks, ast.Call) and len(asked_of_an_error(asks)) == 1
    fine = ast.parse('pytest.raises(ValueError, match="no such thing here")', mode="eval").body
    assert isinstance(fine, ast.Call) and not asked_of_an_error(fine)


def test_a_remark_is_text_that_keeps_its_code_and_values() -> None:
    text = "2 of 3 clips are silent"
    said = Remark(text, "silent", clips=2, of=3)
    for one in (said, pickle.loads(pickle.dumps(said)), copy.deepcopy(said)):
        assert one == text and type(one) is Remark
        assert (one.code, one.facts) == ("silent", {"clips": 2, "of": 3})
    assert json.dumps([said]) == f'["{text}"]', "stored as ever"
    assert coded(said) == {"code": "silent"} and coded("other text") == coded(Remark("no code")) == {}
    assert remarked(["another", said], "silent") is said
    for remarks in ([], [text], [said, said]):
        with pytest.raises(AssertionError):
            remarked(remarks, "silent")


def test_codes_of_remarks_are_spelled_like_those_of_errors() -> None:
    """In lower case with hyphens; they are stored in problems.json and in events.jsonl."""
    found = []
    for path in sorted([*(ROOT / "birdsd").rglob("*.py"), *(ROOT / "jobs").glob("*.py")]):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "Remark":
                assert len(call.args) == 2, f"{path}:{call.lineno} has no code"
                found += [call.args[1].value] if isinstance(call.args[1], ast.Constant) else []
    assert len(found) > 40
    assert [code for code in found if not re.fullmatch(r"[a-z]+(-[a-z]+)*", code)] == []
