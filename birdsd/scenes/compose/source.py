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
from birdsd.scenes.schedule import solve
from birdsd.scenes.store import FORMAT, read_scene
from birdsd.scenes.table import table
from birdsd.scenes.vocabulary import Vocabulary
from birdsd.schema import SceneConfig
from birdsd.sound.labels.annotation import read_text


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
    given = [name for name in ("prompt", "scene", "distribution") if getattr(config, name)]
    if len(given) != 1:
        kind = Mismatch if given else NotSet
        raise kind(
            f"{' and '.join(given)} are both set" if given else "there is no scene to make",
            "exactly one of prompt, scene and distribution says what is heard",
            'e.g. prompt="a House Sparrow singing in rain, then a Black Phoebe"',
        )
    scenes = _scenes_of(config, vocabulary, length_of)
    return replace(scenes, of=lambda k: as_loop(scenes.of(k))) if config.loop else scenes


def as_loop(scene: Scene) -> Scene:
    """The scene as a loop, as long as it would have been."""
    duration_s = solve(scene).duration_s if scene.duration_s is None else scene.duration_s
    return replace(scene, loop=True, duration_s=duration_s)


def _scenes_of(config: SceneConfig, vocabulary: Vocabulary, length_of: LengthOf | None) -> Scenes:
    if not 1 <= config.count <= 10_000_000:
        raise BadValue(f"count={config.count}", "at least one scene is made, and at most ten million")
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
    scene = _with_whole_paths(_read(path, vocabulary, config.seed), path.parent)
    # A scene has a seed of its own, which the job's is added to: the first one is as the file says.
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


def _read(path: Path, vocabulary: Vocabulary, seed: int) -> Scene:
    if not path.is_file():
        raise NotFound(f"the scene {path} does not exist", "it is a YAML or CSV file, or a label table")
    if path.suffix.lower() in (".yaml", ".yml"):
        return read_scene(path, vocabulary)
    if path.suffix.lower() in (".csv", ".tsv") and (
        "role" in read_text(path).split("\n", 1)[0] or FORMAT in read_text(path)[:400]
    ):
        return read_scene(path, vocabulary)
    return scene_of_labels(path, vocabulary, seed=seed)
