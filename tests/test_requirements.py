"""What pyproject.toml asks for is what birdsd imports: no more, and nothing that others happen to bring."""

from __future__ import annotations

import ast
import re
import sys

from tests.shape import ROOT, source_files

# How a package is called that is imported under another name.
CALLED = {"PIL": "pillow", "sklearn": "scikit-learn", "yaml": "pyyaml"}
# Imported by others for us.
NOT_BY_NAME = {"tensorboard": "torch.utils.tensorboard"}
# The project asks for them by name: what bench and tests are measured against, and who reads the shards.
FIXED = {"librosa", "webdataset"}
OUR_EXTRAS = ("birdnet", "deepspeed", "eightbit", "networks", "onnx", "ui")


def asked_for() -> dict[str, set[str]]:
    """The packages of `dependencies` and of each extra, by their plain names."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    lists = re.findall(r"^(\w+) = \[(.*?)\]$", text, re.MULTILINE | re.DOTALL)
    return {name: {plain(word) for word in re.findall(r'"([\w.-]+)', body)} for name, body in lists}


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported() -> dict[str, str]:
    """Package -> a module of ours that imports it, at its top or anywhere else."""
    found: dict[str, str] = {}
    for path in source_files():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [str(node.module)]
            for name in (one.partition(".")[0] for one in names):
                if name not in sys.stdlib_module_names and name != "birdsd":
                    found[plain(CALLED.get(name, name))] = str(path.relative_to(ROOT))
    return found


def test_everything_that_is_imported_is_asked_for() -> None:
    lists, found = asked_for(), imported()
    known = lists["dependencies"].union(*(lists[extra] for extra in OUR_EXTRAS))
    assert len(found) > 20
    assert {name: place for name, place in found.items() if name not in known} == {}


def test_nothing_is_asked_for_that_is_not_imported() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in source_files())
    for name in asked_for()["dependencies"] - imported().keys() - FIXED:
        assert name in NOT_BY_NAME and NOT_BY_NAME[name] in source, name
