"""The scenes of `birdsd ui`: from prose to rows that are edited, to sound, and to one file with it all."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from birdsd.errors import NotSet
from birdsd.files import explained_write, fingerprint, safe_name
from birdsd.pages.scene import SceneFolder
from birdsd.runs.models.places import model_place
from birdsd.scenes.backgrounds.pool import Pool
from birdsd.scenes.book.book import Book, book_of, first_scene
from birdsd.scenes.compose.recipe import recipe_of
from birdsd.scenes.compose.stage import Stage, set_up
from birdsd.scenes.editing import Cells, Edited, Rows, edited, possible, read_seed, rows_of, usual
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
    times; `pool`: a folder of recordings for backgrounds."""

    steps: int
    guidance: float
    judged: bool = True
    tries: int = 4
    pool: str = ""


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

    def understand(self, prose: str, seed: Any = 0, pool: str = "") -> Shown:
        """The scene of a sentence; `UserError` for the first word that is not understood, and for what cannot
        be."""
        if not prose.strip():
            raise NotSet(
                "there is no sentence", "it says who sings, when and where", f"e.g. {self.first_prompt()}"
            )
        words = self.vocabulary(pool)
        return self.shown(possible(understood(prose, words, read_seed(seed)), words), pool)

    def edit(
        self, scene: Scene, events: Sequence[Cells], backgrounds: Sequence[Cells], duration: Any, seed: Any,
        pool: str = "",
    ) -> Edited:  # fmt: skip
        """The scene that edited rows mean, or what is wrong with them."""
        return edited(scene, self.vocabulary(pool), events, backgrounds, duration, seed)

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
            title = scene.name or sentence_of(scene, self.vocabulary(settings.pool))
            name = f"{safe_name(title, 40)}-{fingerprint(told, 8)}"
            self._tick = self._counted(scene, settings, progress)
            try:
                batch.make([0], lambda _: scene, lambda _: name)
            finally:
                self._tick = lambda: None
            progress(1.0, "done")
            return SceneFolder(self.out.resolve() / name)

    def _set_up(self, settings: Settings) -> Stage:
        """Judge, backgrounds and maker: kept until a setting changes, for a judge may have to be trained."""
        asked, pool = self.session.config, settings.pool.strip()
        config = SceneConfig(
            run=asked.run, seed=0, tries=int(settings.tries), judge=None if settings.judged else "none",
            steps=int(settings.steps), guidance=float(settings.guidance), scheduler=asked.scheduler,
            batch_size=asked.batch_size, add=list(asked.add), base=asked.base, runs=asked.runs,
            machine=asked.machine, pool=str(Path(pool).expanduser()) if pool else None, format="wav",
            out=str(self.out),
        )  # fmt: skip
        if self._stage is None or self._stage[0] != config:
            self._stage = (config, set_up(config, self.session.model, lambda: self._tick()))
        return self._stage[1]

    def _counted(self, scene: Scene, settings: Settings, progress: Progress) -> Callable[[], object]:
        """What to call once a step of the network: it reckons with one try a song, and slows down beyond."""
        words = self.vocabulary(settings.pool)
        placed = usual(scene, words)
        batches = math.ceil(len(placed.events) / self.session.config.batch_size)
        windows = sum(
            math.ceil(one.duration_s / (0.8 * (words.clip_s or 1.0) * self.session.config.batch_size))
            for one in placed.backgrounds
            if one.source == "generate"
        )
        expected, done = max(1, settings.steps * (batches + windows)), [0]

        def tick() -> None:
            done[0] += 1
            share = done[0] / (done[0] + max(expected - done[0], _UNCERTAIN * expected))
            progress(
                0.95 * share, "singing, step by step" if done[0] < expected else "further tries, and mixing"
            )

        return tick

    def archive(self, made: SceneFolder, scene: Scene) -> Path:
        """One ZIP with everything: the sound, its stems, every table, the picture, the recipe, and the scene
        as YAML and CSV. Made once, and again where it is not whole."""
        folder = made.folder
        path = self.out.resolve() / f"{folder.name}.zip"
        if path.is_file() and zipfile.is_zipfile(path):
            return path
        part = path.with_suffix(".part")
        with explained_write(path):
            with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
                for one in sorted(p for p in folder.rglob("*") if p.is_file()):
                    file.write(one, f"{folder.name}/{one.relative_to(folder).as_posix()}")
                file.writestr(f"{folder.name}/scene.yaml", to_yaml(scene))
                file.writestr(f"{folder.name}/scene.csv", to_csv(scene))
            part.replace(path)
        return path
