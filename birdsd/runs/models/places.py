"""The folders of the models that a configuration names."""

from __future__ import annotations

from pathlib import Path

from birdsd.errors import NotSet
from birdsd.runs.run import RunStore
from birdsd.schema import ClipsConfig


def model_place(config: ClipsConfig) -> Path:
    """The folder of the model that `run` names."""
    if not config.run:
        raise NotSet(
            "run is not set", "a model must make the sound", "run=NAME of a finished run, or a folder"
        )
    return place_of(config, config.run)


def place_of(config: ClipsConfig, name: str) -> Path:
    """A folder as it stands, or the export of the run that `name` names."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    return RunStore(Path(config.runs)).find(name).export_folder
