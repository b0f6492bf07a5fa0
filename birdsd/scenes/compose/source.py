"""Which scenes a job is to make: from prose, a file, a label table or a distribution, by number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from birdsd.errors import BadValue, Mismatch, NotFound, NotSet
from birdsd.files import safe_name
from birdsd.randomness import generator
from birdsd.scenes.drawn.distribution import read_distribution
from birdsd.scenes.drawn.draw import LengthOf, draw_scene
from birdsd.scenes.labels import scene_of_labels
from birdsd.scenes.placed import PlacedScene
from birdsd.scenes.prose.parse import understood
from birdsd.scenes.prose.sentence import sentence
from birdsd.scenes.scene import Scene
from birdsd.scenes.schedule import as_loop, solve
from birdsd.scenes.store import FORMAT, read_scene
from birdsd.scenes.table import table
from birdsd.scenes.vocabulary import Vocabulary
from birdsd.schema import SceneConfig
from birdsd.sound.labels.annotation import read_text

FOR_TABLES = ("birds", "others", "environment", "recording")  # settings that belong to a label table


@dataclass(frozen=True)
class Scenes:
    """Scene k of a job, as a function of k; `name` of one, from which those of several are numbered."""

    of: Callable[[int], Scene]
    name: str

    def told(self, rate_hz: int) -> str:
        """The first scene as it was understood: a sentence and a table. `rate_hz`: of the songs."""
        return "\n".join([sentence(self.of(0)), "", table(self.placed(rate_hz))])

    def placed(self, rate_hz: int) -> PlacedScene:
        """The first scene with the times that its events would have, were they as long as asked."""
        return solve(self.of(0), rate_hz=rate_hz, overrun="leave_out")


def scenes_of(config: SceneConfig, vocabulary: Vocabulary, length_of: LengthOf | None = None) -> Scenes:
    """What the configuration asks for: exactly one of prompt, scene and distribution. `UserError` for names
    and numbers that cannot be, before anything is made."""
    check_asked(config)
    scenes = _scenes_of(config, vocabulary, length_of)
    return replace(scenes, of=lambda k: as_loop(scenes.of(k))) if config.loop else scenes


def check_asked(config: SceneConfig) -> None:
    """`UserError` where nothing says what is to be heard, or more than one thing does; needs no model."""
    given = [name for name in ("prompt", "scene", "distribution") if getattr(config, name)]
    if len(given) != 1:
        kind = Mismatch if given else NotSet
        raise kind(
            f"{' and '.join(given)} are both set" if given else "there is no scene to make",
            "exactly one of prompt, scene and distribution says what is heard, or prompts of an animation",
            'e.g. prompt="a House Sparrow singing in rain, then a Black Phoebe"',
        )
    check_count(config)


def check_count(config: SceneConfig) -> None:
    """`UserError` for no scene, and for more than anybody wants."""
    if not 1 <= config.count <= 10_000_000:
        raise BadValue(f"count={config.count}", "at least one scene is made, and at most ten million")


def _scenes_of(config: SceneConfig, vocabulary: Vocabulary, length_of: LengthOf | None) -> Scenes:
    if not config.scene:
        _refuse_for_a_table(config, f"the scene is of {'a sentence' if config.prompt else 'a distribution'}")
    if config.prompt:
        text = config.prompt
        return Scenes(
            lambda k: understood(text, vocabulary, seed=seed_of(config.seed, k)), safe_name(text, 40)
        )
    if config.distribution:
        made = read_distribution(Path(config.distribution), vocabulary)
        made = replace(made, seed=config.seed) if config.seed else made
        return Scenes(lambda k: draw_scene(made, k, vocabulary, length_of), safe_name(made.name, 40))
    path = Path(str(config.scene))
    scene = _with_whole_paths(_read(path, vocabulary, config), path.parent)
    # A scene has a seed of its own, which the job's is added to: the first one is as the file says. A label
    # table has none.
    return Scenes(
        lambda k: replace(scene, seed=seed_of(scene.seed + config.seed, k)),
        safe_name(scene.name or path.stem, 40),
    )


def seed_of(seed: int, number: int) -> int:
    """The seed of scene `number`: the first has the job's own."""
    return seed if number == 0 else int(generator(seed, "scene", number).integers(2**31))


def _with_whole_paths(scene: Scene, folder: Path) -> Scene:
    """The files of backgrounds are named from where the scene's file lies, and its recipe lies elsewhere."""
    backgrounds = tuple(
        replace(one, path=str((folder / Path(one.path).expanduser()).resolve())) if one.path else one
        for one in scene.backgrounds
    )
    return replace(scene, backgrounds=backgrounds)


def _read(path: Path, vocabulary: Vocabulary, config: SceneConfig) -> Scene:
    if not path.is_file():
        raise NotFound(f"the scene {path} does not exist", "it is a YAML or CSV file, or a label table")
    if is_scene_file(path):
        _refuse_for_a_table(config, f"{path} is a scene")
        return read_scene(path, vocabulary)
    sung = scene_of_labels(
        path, vocabulary, birds={str(one): str(to) for one, to in config.birds.items()},
        others=config.others, environment=config.environment or "", recording=config.recording or "",
        seed=config.seed,
    )  # fmt: skip
    return replace(sung, seed=0)


def is_scene_file(path: Path) -> bool:
    """Whether a file is a scene, as YAML or CSV; what is not is taken for a label table."""
    if path.suffix.lower() in (".yaml", ".yml"):
        return True
    if path.suffix.lower() not in (".csv", ".tsv"):
        return False
    text = read_text(path)
    return "role" in text.split("\n", 1)[0] or FORMAT in text[:400]


def _refuse_for_a_table(config: SceneConfig, instead: str) -> None:
    """`UserError` where a setting of label tables is set, and none is read."""
    if given := [name for name in FOR_TABLES if getattr(config, name)]:
        raise Mismatch(
            f"{given[0]} is set, and {instead}", "it says how a label table is sung anew",
            f"leave {given[0]} out, or scene=LABELS.txt",
        )  # fmt: skip
