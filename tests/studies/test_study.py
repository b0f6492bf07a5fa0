"""Comparisons: the arms, their order, sharing them out, being stopped and killed, and what is put together.

The jobs that they are made of are stood in for by fake_birdsd.py (prepare is real).
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from birdsd.config import compose
from birdsd.errors import NotFound, NothingLeft, NotSet, UnknownName, UserError
from birdsd.files import read_json
from birdsd.jobs_api import STOPPED_STATUS, Outcome
from birdsd.schema import CodecConfig
from birdsd.shards.index import ShardIndex
from birdsd.studies.arms import METHODS, compare_methods, finetune_vs_scratch
from birdsd.studies.results import carry_out, share_bytes
from birdsd.studies.study import BASE, IN_ENVIRONMENT, KNOWN, NEW, Study
from birdsd.training.progress import Pulse
from tests.support.errors import refuses
from tests.support.fake_birdsd import SPECIES_HZ
from tests.support.shard_makers import CODEC, tone

ROOT = Path(__file__).resolve().parents[2]
FAKE = (sys.executable, "-m", "tests.support.fake_birdsd")
LINES = {"compare_methods": compare_methods, "finetune_vs_scratch": finetune_vs_scratch}


class RunControl:
    """Asks to stop when `when` says so, and keeps what it is told."""

    def __init__(self, when: Callable[[], bool] = lambda: False) -> None:
        self.when = when
        self.pulses: list[Pulse] = []

    def should_stop(self) -> bool:
        return self.when()

    def beat(self, pulse: Pulse) -> None:
        self.pulses.append(pulse)


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recordings")
    for name, hz in SPECIES_HZ.items():
        for number in range(4):
            tone(folder / name / f"{name}{number}.wav", 1.0, hz + 20 * number)
    return folder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with a codec that is small."""
    known = {item.name for item in dataclasses.fields(CodecConfig)}
    values = {key: value for key, value in CODEC.to_json().items() if key in known}
    (tmp_path / "codec.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.setenv("FAKE_BIRDSD", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


def settings(birds: Path, place: Path, *more: str) -> list[str]:
    return [
        f"data={birds}", f"codec={place / 'codec.yaml'}", f"out={place / 'out'}", f"runs={place / 'runs'}",
        "clips_per_species=2", "samples=32", "machine.processes=1", *more,
    ]  # fmt: skip


def study(
    birds: Path, place: Path, *more: str, job: str = "compare_methods", control: RunControl | None = None
) -> Study:
    config = compose(job, settings(birds, place, *more))
    return Study(config, LINES[job](config), control or RunControl(), FAKE)


def run(birds: Path, place: Path, *more: str, **how: Any) -> Outcome:
    return carry_out(study(birds, place, *more, **how))


def calls(place: Path, job: str = "") -> list[dict[str, str]]:
    lines = (place / "calls.jsonl").read_text().splitlines()
    return [told for told in map(json.loads, lines) if job in ("", told["job"])]


AESTHETIC = "aesthetic_gradients"


def held(told: dict[str, str]) -> str:
    """Which species the shards of a training hold."""
    return KNOWN if Path(told["data.shards"]).name.startswith(KNOWN) else NEW


# -- the design -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("job", "arms"), [("compare_methods", 11), ("finetune_vs_scratch", 5)])
def test_every_arm_stands_on_trainings_that_there_are(birds: Path, place: Path, job: str, arms: int) -> None:
    design = study(birds, place, "environment=.", job=job).design
    assert len({arm.name for arm in design.arms}) == len(design.arms) == arms
    assert [arm.name for arm in design.arms if arm.control] == [BASE]
    for training in design.trainings.values():
        assert training.shards in design.sets
        assert {training.on, training.clip} - {""} <= design.trainings.keys()
    for arm in design.arms:
        assert {arm.model, arm.add} - {""} <= design.trainings.keys()
    taught = [design.trainings[name] for arm in design.arms for name in arm.trainings]
    # As many samples for everything that is trained; the aesthetic embedding counts none.
    assert {training.samples for training in taught} <= {32, 0}


def test_the_arms_differ_in_what_they_are_and_in_nothing_else(birds: Path, place: Path) -> None:
    facts = run(birds, place).facts
    assert facts["missing"] == [] and len(facts["arms"]) == 11
    trained = {
        (told["method"], told.get("method.base_method", "") or told["model.init"], held(told)): told
        for told in calls(place, "train")
    }
    assert len(trained) == len(calls(place, "train")) == 10, "each training is done once"
    assert {told["seed"] for told in trained.values()} == {"0"}
    arms = {key: told for key, told in trained.items() if key[2] == NEW and key[0] != AESTHETIC}
    assert len(arms) == 6
    assert {told["optim.total_samples"] for told in arms.values()} == {"32"}
    assert len({told["data.shards"] for told in arms.values()}) == 1
    bases = {told.get("model.source") for told in arms.values() if told["model.init"] == "pretrained"}
    base = next(iter(bases))
    assert len(bases) == 1 and base is not None and "full-scratch-known" in base
    scratch = arms["full", "scratch", NEW]
    assert "autoencoder" in scratch["model.autoencoder"] and "model.source" not in scratch
    assert ("clip", "pretrained", KNOWN) in trained
    aesthetic = trained[AESTHETIC, "pretrained", NEW]
    assert "clip" in aesthetic["model.clip"] and "optim.total_samples" not in aesthetic
    asked = {Path(told["out"]).name: told for told in calls(place, "generate")}
    assert sorted(asked) == sorted(arm.name for arm in METHODS)
    same = ("prompt", "count", "steps", "guidance", "seed")
    assert len({tuple(told[key] for key in same) for told in asked.values()}) == 1
    assert asked[BASE]["run"] == asked[AESTHETIC]["run"] == base and "add" not in asked[BASE]
    on_lora = asked["aesthetic_on_lora"]
    assert on_lora["run"] == asked["lora"]["run"] and on_lora["add"] == asked[AESTHETIC]["add"]


def test_the_figures_are_those_of_the_arms(birds: Path, place: Path) -> None:
    facts = run(birds, place, "methods=[full,lora,aesthetic_on_lora]").facts
    arms = {arm["name"]: arm for arm in facts["arms"]}
    assert list(arms) == [BASE, "full", "lora", "aesthetic_on_lora"]
    assert facts["new"] == ["Two"] and facts["known"] == ["Four", "One", "Three"]
    # The fake base model sings the first species whatever it is asked for, and the others what they are.
    assert arms[BASE]["scores"]["new"]["accuracy"] == 0 and arms["full"]["scores"]["new"]["accuracy"] == 1
    assert arms[BASE]["scores"]["known"]["accuracy"] == pytest.approx(1 / 3)
    assert arms["full"]["gain"]["gained"] == 2 and arms["full"]["gain"]["lost"] == 0
    assert arms["full"]["everything"]["accuracy"] == 1 and arms["full"]["kappa"] == 1
    assert arms["full"]["validation"] == {"positions": [16, 32], "losses": [1 / 16, 1 / 32], "samples": 2}
    assert arms[BASE]["figures"]["share_bytes"] is None and arms["full"]["figures"]["share_bytes"] == 1000
    assert arms["aesthetic_on_lora"]["figures"]["share_bytes"] == 2000, "with what it stands on"
    assert arms["aesthetic_on_lora"]["figures"]["parameters"] == 2468
    assert arms["full"]["figures"]["peak_mib"] > 1 and arms["full"]["figures"]["train_s"] > 0
    page = Path(facts["report"]).read_text(encoding="utf-8")
    assert page.count("<audio") == 4 * (1 * 2 + 3) + 4 and "Full fine-tuning" in page
    assert read_json(place / "out" / "comparison.json")["new"] == ["Two"]


def test_a_comparison_that_is_done_does_nothing_again(birds: Path, place: Path) -> None:
    first = run(birds, place, "methods=[full]").facts
    second = run(birds, place, "methods=[full]").facts
    figures = [[arm["figures"] for arm in facts["arms"]] for facts in (first, second)]
    assert figures[0] == figures[1], "the costs are those of the time when the work was done"
    begun = Counter(told["method"] for told in calls(place, "train"))
    assert begun == {"autoencoder": 2, "full": 4}, "asked again, and found done"


@pytest.mark.parametrize(("count", "new"), [(2, 1), (3, 1), (4, 1), (5, 2), (10, 3), (20, 6)])
def test_the_last_three_tenths_by_name_are_new(birds: Path, place: Path, count: int, new: int) -> None:
    one = study(birds, place)
    one.species = [f"bird {number:02d}" for number in range(count)]  # type: ignore[misc]
    assert one.new == one.species[-new:] and one.known == one.species[:-new]


def test_what_cannot_be_compared_is_refused(birds: Path, place: Path, tmp_path: Path) -> None:
    with refuses("lorra", "'lora'", kind=UnknownName):
        study(birds, place, "methods=[lorra]")
    with refuses("Tow", "Four, One", "'Two'", kind=UnknownName):
        _ = study(birds, place, "new_species=[Tow]").new
    with refuses("new_species", kind=NothingLeft):
        _ = study(birds, place, "new_species=[one,two,three,FOUR]").new
    alone = tmp_path / "alone"
    tone(alone / "one" / "one.wav", 1.0, 1500.0)
    with refuses(str(alone), kind=NothingLeft):
        _ = study(alone, place).species
    with refuses("lorra", "lora", kind=UnknownName):
        run(birds, place, "settings.lorra=[a=b]")
    with refuses(str(tmp_path / "nowhere"), "data=FOLDER", kind=NotFound):
        study(tmp_path / "nowhere", place)
    with refuses(f"{tmp_path}/nothing", kind=NotFound):
        study(birds, place, f"base={tmp_path}/nothing")
    with refuses("data", "data=FOLDER", kind=NotSet):
        config = compose("compare_methods", [])
        Study(config, compare_methods(config), RunControl(), FAKE)
    with refuses("environment", "environment=FOLDER", kind=NotSet):
        study(birds, place, job="finetune_vs_scratch")


def test_a_named_base_and_clip_are_not_trained(birds: Path, place: Path) -> None:
    base, clip = place / "base", place / "clip"
    for folder in (base, clip):
        folder.mkdir()
    (base / "model_index.json").write_text("{}")
    run(birds, place, f"base={base}", f"clip={clip}", f"methods=[{AESTHETIC},scratch]")
    trained = {told["method"]: told for told in calls(place, "train")}
    assert trained.keys() == {AESTHETIC, "full"}
    assert trained[AESTHETIC]["model.source"] == str(base) and trained[AESTHETIC]["model.clip"] == str(clip)
    assert trained["full"]["model.autoencoder"] == str(base)
    # It has no codec of its own: that of the shards lies in a folder of links beside it.
    asked = Path(next(told for told in calls(place, "generate") if told["out"].endswith("base"))["run"])
    assert (asked / "model_index.json").resolve() == base / "model_index.json"
    assert read_json(asked / "codec.json") == CODEC.to_json() and not (base / "codec.json").exists()


def test_settings_of_one_arm_reach_it_alone(birds: Path, place: Path) -> None:
    run(birds, place, "methods=[full,lora]", "settings.lora=[method.rank=2, optim.learning_rate=1e-3]")
    ranks = {told["method"]: told.get("method.rank") for told in calls(place, "train")}
    assert ranks == {"autoencoder": None, "full": None, "lora": "2"}


# -- four ways --------------------------------------------------------------------------------------------


def test_four_ways_are_song_and_song_in_its_environment(birds: Path, place: Path) -> None:
    for number in range(2):
        tone(place / "places" / "rain" / f"r{number}.wav", 2.0, 700.0)
        tone(place / "places" / "waves" / f"w{number}.wav", 2.0, 300.0)
    facts = run(birds, place, f"environment={place / 'places'}", job="finetune_vs_scratch").facts
    trained = {
        (told["model.init"], "environment" in told["data.shards"]): told
        for told in calls(place, "train")
        if "new" in told["data.shards"]
    }
    assert len(trained) == 4
    mixed = {key: held_environments(Path(told["data.shards"])) for key, told in trained.items()}
    assert mixed["pretrained", False] == mixed["scratch", False] == {""}
    assert mixed["pretrained", True] == mixed["scratch", True] == {"", "rain", "waves"}
    prompts = json.loads(calls(place, "generate")[0]["prompt"])
    assert prompts == ["a Two", "a Four", "a One", "a Three", "a Two in rain",
                       "a Two with waves in the background"]  # fmt: skip
    arm = next(arm for arm in facts["arms"] if arm["name"] == "scratch_environment")
    assert set(arm["scores"]) == {NEW, KNOWN, IN_ENVIRONMENT}
    # The fake mixes noise where rain is asked for: half of the clips asked for in an environment.
    assert arm["background"]["pairs"] == 4 and arm["background"]["with_db"] > arm["background"]["without_db"]
    assert 'data-code="environment"' in Path(facts["report"]).read_text(encoding="utf-8")
    only = study(
        birds, place, f"environment={place / 'places'}", "environments=[rain]", job="finetune_vs_scratch"
    )
    assert only.environments == ["rain"]
    with refuses("rian", "'rain'", kind=UnknownName):
        _ = study(
            birds, place, f"environment={place / 'places'}", "environments=[rian]", job="finetune_vs_scratch"
        ).environments


def held_environments(shards: Path) -> set[str]:
    from birdsd.shards.reader import ShardReader

    index = ShardIndex.open(shards)
    reader = ShardReader(index, "train", want=("metadata",))
    return {str(reader.read(number).metadata["environment"]) for number in range(len(reader))}


def test_new_and_known_share_out_the_birds_and_the_judge_hears_all(birds: Path, place: Path) -> None:
    one = study(birds, place)
    held = {name: set(one.prepare(name).species) for name in one.design.sets}
    assert held == {NEW: {"Two"}, KNOWN: {"One", "Three", "Four"}, "all": {"One", "Two", "Three", "Four"}}


# -- several tasks, and stops -----------------------------------------------------------------------------


def test_parts_share_the_arms_and_the_last_writes_the_whole_page(birds: Path, place: Path) -> None:
    parts = [study(birds, place, f"part={part}/3").mine() for part in range(3)]
    whole = study(birds, place).mine()
    assert sorted(arm.name for part in parts for arm in part) == sorted(arm.name for arm in whole)
    for part in parts:  # what stands on another arm goes with it
        models = {arm.model for arm in part if arm.model != BASE}
        assert all(arm.model in models for arm in METHODS if arm in part and arm.model != BASE)
        assert models.isdisjoint({arm.model for other in parts if other is not part for arm in other})
    first = run(birds, place, "part=0/2")
    assert first.facts["missing"] and all(name in first.text for name in first.facts["missing"])
    page = Path(first.facts["report"]).read_text(encoding="utf-8")
    assert 'data-code="incomplete"' in page
    assert set(re.findall(r'data-arm="([^"]+)"', page)) == set(first.facts["missing"])
    last = run(birds, place, "part=1/2")
    assert last.facts["missing"] == []
    assert "is incomplete" not in Path(last.facts["report"]).read_text(encoding="utf-8")
    again = Counter(json.dumps(told, sort_keys=True) for told in map(without_pid, calls(place, "train")))
    assert {json.loads(line)["method"] for line, times in again.items() if times > 1} == {
        "autoencoder", "full", "clip", AESTHETIC,
    } - {None}  # fmt: skip


def without_pid(told: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in told.items() if key != "pid"}


def task(birds: Path, place: Path, *more: str) -> subprocess.Popen[str]:
    """A task of its own, as a job array would start it."""
    words = settings(birds, place, "methods=[full,lora]", *more)
    script = (
        "import sys\n"
        "from tests.studies.test_study import Study, carry_out, compare_methods, compose, FAKE\n"
        "from birdsd.cluster.rank.signals import run_control\n"
        f"config = compose('compare_methods', {words!r})\n"
        "with run_control() as who:\n"
        "    outcome = carry_out(Study(config, compare_methods(config), who, FAKE))\n"
        "print(outcome.text, flush=True); sys.exit(outcome.exit_status)"
    )
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=ROOT)


def wait_for(there: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.05)


def test_two_tasks_at_once_do_every_step_once(birds: Path, place: Path) -> None:
    (place / "hold-autoencoder").touch()
    tasks = [task(birds, place, f"part={part}/2") for part in range(2)]
    wait_for((place / "begun-autoencoder").exists)
    time.sleep(0.5)  # time for the other to want it too
    assert len(list(calls(place, "train"))) == 1, "the other waits for its lock"
    (place / "hold-autoencoder").unlink()
    texts = [one.communicate(timeout=120)[0] for one in tasks]
    assert [one.returncode for one in tasks] == [0, 0], texts
    arms = read_json(place / "out" / "comparison.json")["arms"]
    assert arms and not any(arm["missing"] for arm in arms), "the last to finish has them all"
    done = Counter(told["method"] + told["model.init"] for told in calls(place, "train"))
    assert done["lorapretrained"] == 1 and done["fullpretrained"] == 1
    assert read_json(place / "out" / "comparison.json")["arms"][2]["missing"] == ""


def test_asked_to_stop_it_stops_its_child_and_goes_on_later(birds: Path, place: Path) -> None:
    (place / "hold-lora").touch()
    control = RunControl((place / "begun-lora").exists)
    stopped = run(birds, place, "methods=[lora]", control=control)
    assert stopped.exit_status == 75 and "'lora'" in stopped.text
    assert not (place / "out" / "report.html").exists()
    before = len(calls(place, "generate"))
    (place / "hold-lora").unlink()
    facts = run(birds, place, "methods=[lora]").facts
    lora = next(arm for arm in facts["arms"] if arm["name"] == "lora")
    assert lora["figures"]["pieces"] == 2 and not lora["figures"]["partly"], "both pieces are counted"
    assert len(calls(place, "generate")) == before + 2


def test_a_signal_to_a_task_reaches_its_child(birds: Path, place: Path) -> None:
    (place / "hold-full").touch()
    one = task(birds, place)
    wait_for((place / "begun-full").exists)
    one.send_signal(signal.SIGUSR2)
    text = one.communicate(timeout=60)[0]
    assert one.returncode == STOPPED_STATUS, text
    assert not alive(int(calls(place, "train")[-1]["pid"]))


def test_after_a_kill_the_next_waits_for_what_is_left_and_says_that_costs_are_missing(
    birds: Path, place: Path
) -> None:
    (place / "hold-lora").touch()
    one = task(birds, place)
    wait_for((place / "begun-lora").exists)
    one.kill()
    one.wait()
    orphan = int(calls(place, "train")[-1]["pid"])
    assert alive(orphan), "the training itself was not killed"
    two = task(birds, place)
    time.sleep(2.0)
    assert sum(told["method"] == "lora" for told in calls(place, "train")) == 1, "nobody trains beside it"
    (place / "hold-lora").unlink()
    text = two.communicate(timeout=120)[0]
    assert two.returncode == 0, text
    facts = read_json(place / "out" / "comparison.json")
    lora = next(arm for arm in facts["arms"] if arm["name"] == "lora")
    assert lora["missing"] == "" and lora["figures"]["partly"], "what the killed piece cost is not known"


def alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def test_an_arm_that_fails_does_not_take_the_others_along(birds: Path, place: Path) -> None:
    (place / "fail-lora").touch()
    with refuses("2 arms", str(place / "out"), kind=UserError):
        run(birds, place, "methods=[lora,aesthetic_on_lora,full]")
    facts = read_json(place / "out" / "comparison.json")
    absent = {arm["name"]: arm["missing"] for arm in facts["arms"]}
    assert absent[BASE] == absent["full"] == "" and "status 2" in absent["aesthetic_on_lora"]
    (place / "fail-lora").unlink()
    assert run(birds, place, "methods=[lora,aesthetic_on_lora,full]").facts["missing"] == []


def test_it_says_where_it_is(birds: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("birdsd.studies.study._WATCH_S", 0.0)
    control = RunControl()
    run(birds, place, "methods=[full]", control=control)
    positions = [pulse.position for pulse in control.pulses]
    assert positions == sorted(positions) and positions[0] == 0 and positions[-1] >= 3 * 16
    assert all(pulse.total >= pulse.position for pulse in control.pulses)


def test_what_is_handed_on_is_the_weights(tmp_path: Path) -> None:
    for name in ("codec.json", "README.md", "recordings.csv", "training.json", "unet/weights.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes(100))
    assert share_bytes(tmp_path) == 100
