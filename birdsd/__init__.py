"""birdsd: turns bird recordings into labelled spectrograms, trains diffusion models, and generates sound."""

from pathlib import Path

__version__ = "0.1.0"

# jobs/ and configs/ stand at the top level of a checkout and inside the package in a wheel. Looking
# beside the package first makes `birdsd.jobs` the same module name in both, also in a code snapshot.
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "pyproject.toml").is_file() and (_checkout / "jobs").is_dir():
    __path__.append(str(_checkout))
