"""The scenes of `birdsd ui`: from prose to rows that are edited, to sound, and to one file with it all."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from birdsd.errors import NotSet, clipped
from birdsd.files import explained_write, fingerprint, safe_name
from birdsd.pages.scene import CanvasFolder, SceneFolder
from birdsd.runs.models.places import model_place
from birdsd.scenes.backgrounds.pool import Pool
from birdsd.scenes.book.book import Book, book_of, first_scene
from birdsd.scenes.canvas.asked import STEP_S, Canvas, animation
from birdsd.scenes.canvas.job import canvas_of_scene, make_canvas, request_of
from birdsd.scenes.canvas.job import recipe_of as canvas_recipe
from birdsd.scenes.compose.batch import SCENE
from birdsd.scenes.compose.recipe import recipe_of
from birdsd.scenes.compose.record import MIX, SONG
from birdsd.scenes.compose.source import is_scene_file, scenes_of
from birdsd.scenes.compose.stage import Stage, set_up
from birdsd.scenes.editing import (
    Cells,
    Edited,
    Rows,
    cell_number,
    edited,
    possible,
    read_seed,
    rows_of,
    usual,
)
from birdsd.scenes.labels import parts
from birdsd.scenes.prose.parse import understood
from birdsd.scenes.prose.sentence import told as sentence_of
from birdsd.scenes.scene import Scene
from birdsd.scenes.store import to_csv, to_yaml
from birdsd.scenes.vocabulary import Vocabulary, vocabulary_of_run
from birdsd.schema import SceneConfig

if TYPE_CHECKING:
    from birdsd.ui.session import UiSession

Progress = Callable[[float, str], object]
FOLDER = "scenes"  # below the folder of the clips
_UNCERTAIN = 0.15  # of the steps that are expected: further tries may be needed for a song


@dataclass(frozen=True)
class Shown:
    """A scene as the page shows it."""

    scene: Scene
    sentence: str
    rows: Rows
    duration_s: float
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Settings:
    """How the sound is made. `judged`: songs that the judge does not confirm are made again, up to `tries`
    times; `pool`: a folder of recordings for backgrounds; `in_mix`: they must be heard in the mix, too."""

    steps: int
    guidance: float
    judged: bool = True
    tries: int = 4
    pool: str = ""
    in_mix: bool = False


@dataclass(frozen=True)
class TableOptions:
    """How a label table is sung anew: `birds` says who sings whose part, `recording` whose rows are meant
    if the table covers several."""

    birds: Mapping[str, str] = field(default_factory=dict)
    environment: str = ""
    recording: str = ""


class SceneDesk:
    """Scenes of the session's model, one at a time."""

    def __init__(self, session: UiSession) -> None:
        self.session = session
        self.out = session.out / FOLDER
        self._stage: tuple[SceneConfig, Stage] | None = None
        self._words: dict[str, Vocabulary] = {}
        self._tick: Callable[[], object] = lambda: None

    # -- words ---------------------------------------------------------------------------

    def vocabulary(self, pool: str = "") -> Vocabulary:
        """What may be asked for; `UserError` for a model without species, and for a pool that is none."""
        place = pool.strip()
        if place not in self._words:
            names = Pool(Path(place).expanduser()).names if place else ()
            config = self.session.config
            self._words[place] = vocabulary_of_run(model_place(config), config.base, names)
        return self._words[place]

    def first_prompt(self) -> str:
        """The sentence that the tab opens with."""
        return first_scene(self.vocabulary())

    def book(self) -> Book:
        """The prompt book of the model."""
        return book_of(self.vocabulary(), self.session.title)

    # -- the scene as data ---------------------------------------------------------------

    def understand(self, prose: str, seed: Any = 0, pool: str = "", loop: bool = False) -> Shown:
        """The scene of a sentence; `UserError` for the first word that is not understood, and for what cannot
        be."""
        if not prose.strip():
            raise NotSet(
                "there is no sentence", "it says who sings, when and where", f"e.g. {self.first_prompt()}"
            )
        words = self.vocabulary(pool)
        return self.shown(possible(understood(prose, words, read_seed(seed)), words, loop), pool)

    def parts(
        self, path: Path, pool: str = "", *, others: bool = False, recording: str = "", seed: Any = 0
    ) -> dict[str, str]:
        """Who would sing whose part of a label table; of a scene file nothing."""
        if is_scene_file(path):
            return {}
        words = self.vocabulary(pool)
        return parts(path, words, others=others, recording=recording.strip(), seed=read_seed(seed))

    def open(
        self, path: Path, options: TableOptions, seed: Any = 0, pool: str = "", loop: bool = False
    ) -> Shown:
        """The scene of a file, as `birdsd run scene scene=FILE` has it; a seed of its own stays its own."""
        own = is_scene_file(path)
        config = SceneConfig(
            scene=str(path), seed=0 if own else read_seed(seed), birds=dict(options.birds),
            environment=options.environment.strip() or None, recording=options.recording.strip() or None,
        )  # fmt: skip
        words = self.vocabulary(pool)
        scene = scenes_of(config, words).of(0)
        return self.shown(possible(scene, words, loop or scene.loop), pool)

    def edit(
        self, scene: Scene, events: Sequence[Cells], backgrounds: Sequence[Cells], duration: Any, seed: Any,
        pool: str = "", loop: bool | None = None,
    ) -> Edited:  # fmt: skip
        """The scene that edited rows mean, or what is wrong with them."""
        return edited(scene, self.vocabulary(pool), events, backgrounds, duration, seed, loop)

    def shown(self, scene: Scene, pool: str = "") -> Shown:
        """A scene for the page: with songs of the usual length, until they are measured."""
        words = self.vocabulary(pool)
        placed = usual(scene, words)
        return Shown(scene, sentence_of(scene, words), rows_of(scene, words), placed.duration_s, placed.notes)

    # -- the sound -----------------------------------------------------------------------

    def make(
        self, scene: Scene, settings: Settings, progress: Progress = lambda share, what: None
    ) -> SceneFolder:
        """Make the sound, or find it where it was made before. `progress` is called with the share that is
        done, 0 to 1, and what is being done. `UserError` as for `birdsd run scene`."""
        with self.session.busy:
            progress(0.0, "loading the judge")
            batch = self._set_up(settings).batch
            told = recipe_of(scene, "", batch.settings, batch.identities)
            name = f"{safe_name(self.title(scene, settings.pool), 40)}-{fingerprint(told, 8)}"
            self._tick = self._counted(self._expected(scene, settings), progress)
            try:
                batch.make([0], lambda _: scene, lambda _: name)
            finally:
                self._tick = lambda: None
            progress(1.0, "done")
            return SceneFolder(self.out.resolve() / name)

    def make_canvas(
        self, canvas: Canvas, title: str, settings: Settings, progress: Progress = lambda share, what: None
    ) -> CanvasFolder:
        """Make the sound of a canvas, or find it where it was made before, as `birdsd run scene` with prompts
        or way=canvas does. `UserError` as there: nothing is judged, and no recordings are heard."""
        config = self._config(settings, judge=None, way="canvas")
        request, model = request_of(config), self.session.model
        with self.session.busy:
            progress(0.0, "beginning")
            told = canvas_recipe(model, request, canvas, config)
            name = f"{safe_name(title, 40)}-{fingerprint(told, 8)}"
            windows = math.ceil(canvas.duration_s / (0.8 * model.codec.clip_s * config.batch_size))
            make_canvas(
                model, request, canvas, config, name, self._counted(settings.steps * windows, progress)
            )
            progress(1.0, "done")
            return CanvasFolder(self.out.resolve() / name)

    def canvas_of(self, scene: Scene, pool: str = "") -> Canvas:
        """A scene as the regions of one canvas."""
        return canvas_of_scene(scene, self.vocabulary(pool))

    def title(self, scene: Scene, pool: str = "") -> str:
        """What a scene is called."""
        return scene.name or sentence_of(scene, self.vocabulary(pool))

    def animation(self, rows: Sequence[Cells], duration: Any, seed: Any, loop: bool) -> Canvas:
        """An animation of rows (time, prompt). Without any time they lie evenly; `UserError` for what cannot
        be."""
        texts = [tuple("" if one is None or one != one else str(one).strip() for one in row) for row in rows]
        texts = [row for row in texts if any(row)]
        for number, row in enumerate(texts, 1):
            if not row[1]:
                raise NotSet(f"row {number} has no prompt", "an animation goes from prompt to prompt")
            if any(other[0] for other in texts) and not row[0]:
                raise NotSet(
                    f"'{clipped(row[1])}' has no time", "either every prompt has one, or none has",
                    "without any they lie evenly",
                )  # fmt: skip
        times = [cell_number(row[0], "at_s", f"'{clipped(row[1])}'") for row in texts if row[0]]
        text = "" if duration is None else str(duration).strip()
        return animation(
            [row[1] for row in texts], times,
            cell_number(text, "duration_s", "the animation") if text else None,
            seed=read_seed(seed), loop=loop, clip_s=self.session.clip_s,
        )  # fmt: skip

    def first_animation(self) -> list[list[str]]:
        """The rows that the animation tab opens with."""
        species = self.session.model.species[:2]
        prompts = [self.session.prompt(one, None) for one in species] or [self.session.first_prompt()]
        return [[f"{STEP_S * number:g}", prompt] for number, prompt in enumerate(prompts)]

    def _set_up(self, settings: Settings) -> Stage:
        """Judge, backgrounds and maker: kept until a setting changes, for a judge may have to be trained."""
        config = self._config(
            settings, judge=None if settings.judged else "none", tries=int(settings.tries),
            confirm=MIX if settings.in_mix else SONG,
        )  # fmt: skip
        if self._stage is None or self._stage[0] != config:
            self._stage = (config, set_up(config, self.session.model, lambda: self._tick()))
        return self._stage[1]

    def _config(self, settings: Settings, **more: Any) -> SceneConfig:
        """The settings as `birdsd run scene` has them."""
        asked, pool = self.session.config, settings.pool.strip()
        return SceneConfig(
            run=asked.run, seed=0, steps=int(settings.steps), guidance=float(settings.guidance),
            scheduler=asked.scheduler, batch_size=asked.batch_size, add=list(asked.add), base=asked.base,
            runs=asked.runs, machine=asked.machine, pool=str(Path(pool).expanduser()) if pool else None,
            format="wav", out=str(self.out), **more,
        )  # fmt: skip

    def _expected(self, scene: Scene, settings: Settings) -> int:
        """Steps of the network that a scene takes where every song comes out at once."""
        words = self.vocabulary(settings.pool)
        placed = usual(scene, words)
        batches = math.ceil(len(placed.events) / self.session.config.batch_size)
        windows = sum(
            math.ceil(one.duration_s / (0.8 * (words.clip_s or 1.0) * self.session.config.batch_size))
            for one in placed.backgrounds
            if one.source == "generate"
        )
        return int(settings.steps) * (batches + windows)

    def _counted(self, expected: int, progress: Progress) -> Callable[[], object]:
        """What to call once a step of the network: beyond those that are expected it slows down."""
        expected, done = max(1, expected), [0]

        def tick() -> None:
            done[0] += 1
            share = done[0] / (done[0] + max(expected - done[0], _UNCERTAIN * expected))
            progress(
                0.95 * share, "singing, step by step" if done[0] < expected else "further tries, and mixing"
            )

        return tick

    def archive(self, made: SceneFolder | CanvasFolder, scene: Scene | None) -> Path:
        """One ZIP with everything: the sound, its stems, every table, the picture, the recipe, and the scene
        as YAML and CSV, where there is one. Made once, and again where it is not whole."""
        folder = made.folder
        path = self.out.resolve() / f"{folder.name}.zip"
        if path.is_file() and zipfile.is_zipfile(path):
            return path
        part = path.with_suffix(".part")
        with explained_write(path):
            with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
                for one in sorted(p for p in folder.rglob("*") if p.is_file()):
                    file.write(one, f"{folder.name}/{one.relative_to(folder).as_posix()}")
                if scene is not None:
                    if not (folder / SCENE).is_file():
                        file.writestr(f"{folder.name}/{SCENE}", to_yaml(scene))
                    file.writestr(f"{folder.name}/scene.csv", to_csv(scene))
            part.replace(path)
        return path
