"""Which packages there are; everything else about the project stands in pyproject.toml."""

from setuptools import find_packages, setup

# jobs/ and configs/ lie outside the package (see package-dir in pyproject.toml), where nothing finds them.
setup(packages=[*find_packages(include=["birdsd", "birdsd.*"]), "birdsd.jobs", "birdsd.configs"])
