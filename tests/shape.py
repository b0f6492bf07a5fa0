"""The shape of the house: which room imports which, circles, and how full and how long everything is.

`python -m tests.shape` prints files and lines a room, the circles, the fullest folder, and functions with
more than six parameters. tests/test_structure.py holds the house to its limits with the same functions.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MOST_PARAMETERS = 6


def source_files(root: Path = ROOT) -> list[Path]:
    """Every module of the package, and jobs/, which travels inside it as `birdsd.jobs`."""
    return sorted([*root.glob("birdsd/**/*.py"), *root.glob("jobs/*.py")])


def module_name(path: Path, root: Path = ROOT) -> str:
    """birdsd/runs/run.py -> birdsd.runs.run; jobs/train.py -> birdsd.jobs.train."""
    parts = list(path.relative_to(root).with_suffix("").parts)
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return ".".join(parts if parts[0] == "birdsd" else ["birdsd", *parts])


def room_of(name: str, packages: set[str]) -> str:
    """The room of a module: its folder below birdsd/, "runs.status"; of a module at the top, its own name."""
    below = name.removeprefix("birdsd").removeprefix(".")
    return below if name in packages or "." not in below else below.rpartition(".")[0]


def imported(tree: ast.AST, known: set[str]) -> set[str]:
    """The modules of `known` that a module imports anywhere: at its top, in functions, or for types alone."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the room they come from"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                found.add(name if name in known else str(node.module))
    return found & known


def graph_of(root: Path = ROOT) -> dict[str, set[str]]:
    """What every module imports, lazily or not; packages stand for their `__init__`."""
    paths = {module_name(path, root): path for path in source_files(root)}
    known = set(paths)
    trees = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in paths.items()}
    return {name: imported(tree, known) - {name} for name, tree in trees.items()}


def rooms_graph(modules: Mapping[str, set[str]], packages: set[str]) -> dict[str, set[str]]:
    """The same between rooms; `birdsd` itself (its version) is nobody's room."""
    rooms: dict[str, set[str]] = {}
    for name, targets in modules.items():
        if own := room_of(name, packages):
            others = {room_of(target, packages) for target in targets} - {own, ""}
            rooms.setdefault(own, set()).update(others)
    return rooms


def package_names(root: Path = ROOT) -> set[str]:
    """The modules that are folders."""
    return {module_name(path, root) for path in source_files(root) if path.name == "__init__.py"}


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of nodes that reach each other (Tarjan 1972), each sorted; none where all arrows go one way."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    waiting: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        order[node] = lowest[node] = len(order)
        waiting.append(node)
        for target in sorted(graph.get(node, ())):
            if target not in order:
                visit(target)
            if target in waiting:
                lowest[node] = min(lowest[node], lowest[target])
        if lowest[node] == order[node]:
            group = waiting[waiting.index(node) :]
            del waiting[-len(group) :]
            if len(group) > 1:
                found.append(sorted(group))

    for node in sorted(graph):
        if node not in order:
            visit(node)
    return found


def files_a_folder(paths: Sequence[Path]) -> Counter[Path]:
    """How many modules lie in each folder, not counting `__init__.py`."""
    return Counter(path.parent for path in paths if path.name != "__init__.py")


def functions(paths: Sequence[Path]) -> Iterator[tuple[Path, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Every function and method."""
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield path, node


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """How many parameters a function has, without self and cls."""
    told = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return sum(argument.arg not in ("self", "cls") for argument in told)


def lines_of(path: Path) -> int:
    return path.read_text(encoding="utf-8").count("\n")


def main() -> None:
    """Print the shape."""
    paths, packages, modules = source_files(), package_names(), graph_of()
    rows: dict[str, list[int]] = {}
    for path in paths:
        row = rows.setdefault(str(path.parent.relative_to(ROOT)), [0, 0])
        row[0] += path.name != "__init__.py"
        row[1] += lines_of(path)
    print(f"{'room':30} {'files':>5} {'lines':>7}")
    for room, (files, lines) in sorted(rows.items()):
        print(f"{room:30} {files:5} {lines:7}")
    print(f"{'all':30} {sum(row[0] for row in rows.values()):5} {sum(row[1] for row in rows.values()):7}")
    for what, graph in (("modules", modules), ("rooms", rooms_graph(modules, packages))):
        found = circles(graph)
        print(f"circles of {what}, lazy imports too: {len(found)}")
        for group in found:
            print(f"  {', '.join(group)}")
    folder, files = files_a_folder(paths).most_common(1)[0]
    print(f"fullest folder: {folder.relative_to(ROOT)}, {files} files")
    many = [(parameters(one), path, one.name) for path, one in functions(paths)]
    many = sorted((one for one in many if one[0] > MOST_PARAMETERS), key=lambda one: -one[0])
    print(f"functions with more than {MOST_PARAMETERS} parameters: {len(many)}")
    for count, path, name in many:
        print(f"  {count:2} {path.relative_to(ROOT)}: {name}")


if __name__ == "__main__":
    main()
