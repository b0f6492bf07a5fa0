"""Tests hold on to codes and facts, so that a sentence may be improved without a test noticing.

Prose is three words of English in a row in what an assertion compares with the program's own: the sides of
`==` and `in`, what is handed to `startswith`, `count`, `re.search` and the like, and the values that
`parametrize` and `for` give such a side. No prose are words that the test itself handed in (they stand in the
file once more), commands, what `raises(ValueError, match=...)` finds (only a developer reads it), and what
`EXPECTED` lists. Whole messages are in tests/golden/texts.json, kinds of errors are held by
`tests.support.errors`, kinds of remarks by `tests.support.remarks`, notes of pages by their `data-code`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).resolve().parent
SENTENCE = re.compile(r"(?<![\w'/.=-])[A-Za-z][a-z']+,? [a-z'][a-z']*,? [a-z'][a-z']+(?![\w'/=_-])")
COMMAND = re.compile(r"birdsd (run|submit|resume|export|import|inspect) [\w=. -]*")
LOOKS_FOR = {"startswith", "endswith", "count", "index", "find", "search", "match", "fullmatch", "findall"}
# What reads like prose and is data, and what is left: how many in each file, and what they are. No number may
# grow, and a file that has fewer gets a smaller one.
EXPECTED = {
    "diffusion/generation/test_aesthetics.py": (1, "the name of an event"),
    "scenes/book/test_book.py": (5, "prompts"),
    "sound/species/test_names.py": (1, "an environment"),
    "sound/test_captions.py": (9, "captions"),
    "studies/test_demo.py": (1, "a prompt"),
    "studies/test_sim2real.py": (3, "names of stages"),
    "studies/test_study.py": (2, "prompts"),
    "test_gpu_check.py": (2, "a reason of a test's own, and a table's name"),
    "training/checkpoints/test_failed_saves.py": (2, "why a save failed has no code"),
    "training/test_resume.py": (1, "the name of an event"),
    "ui/test_ui.py": (2, "prompts"),
}


def test_assertions_are_on_codes_and_facts() -> None:
    found = {}
    for path in sorted(TESTS.rglob("*.py")):
        if "golden" not in path.relative_to(TESTS).parts:
            found[path.relative_to(TESTS).as_posix()] = prose(path.read_text(encoding="utf-8"))
    more = [
        f"{name}:{line}: {text!r}"
        for name, texts in found.items()
        if len(texts) > EXPECTED.get(name, (0,))[0]
        for line, text in texts
    ]
    assert more == [], "hold a code or a fact instead"
    assert {name: len(texts) for name, texts in found.items() if texts} == {
        name: count for name, (count, _) in EXPECTED.items()
    }, "EXPECTED lists more than there is"


# -- what is found ------------------------------------------------------------------------------------------


def literals(node: ast.AST) -> Iterator[ast.Constant]:
    """The texts that a side of a comparison is made of; what is handed to a call is input, and not of it."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node
    elif isinstance(node, (ast.Tuple, ast.List, ast.Set, ast.JoinedStr, ast.Dict, ast.BinOp, ast.IfExp)):
        for child in ast.iter_child_nodes(node):
            yield from literals(child)


def sides(test: ast.AST) -> Iterator[ast.AST]:
    """What an assertion compares, and what it looks for."""
    for node in ast.walk(test):
        if isinstance(node, ast.Compare):
            yield from (node.left, *node.comparators)
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in LOOKS_FOR
        ):
            yield from node.args
        elif isinstance(node, ast.comprehension):
            yield node.iter


def values_of(function: ast.AST) -> dict[str, list[ast.AST]]:
    """What `parametrize` and `for` give each name."""
    given: dict[str, list[ast.AST]] = {}

    def put(names: list[str], values: ast.AST) -> None:
        rows = values.elts if isinstance(values, (ast.Tuple, ast.List, ast.Set)) else []
        for row in rows:
            if isinstance(row, ast.Call):  # pytest.param(...)
                row = ast.Tuple(row.args, ast.Load())
            cells = row.elts if len(names) > 1 and isinstance(row, (ast.Tuple, ast.List)) else [row]
            for name, cell in zip(names, cells, strict=False):
                given.setdefault(name, []).append(cell)

    for node in ast.walk(function):
        if isinstance(node, (ast.For, ast.comprehension)):
            put([one.id for one in ast.walk(node.target) if isinstance(one, ast.Name)], node.iter)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("parametrize"):
            names = ast.literal_eval(node.args[0])
            put(
                [one.strip() for one in names.split(",")] if isinstance(names, str) else [*names],
                node.args[1],
            )
    return given


def asserted(tree: ast.AST) -> dict[ast.Constant, int]:
    """Every text that an assertion of the module holds on to, with its line."""
    found: dict[ast.Constant, int] = {}
    functions = [one for one in ast.walk(tree) if isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef))]
    for function in functions:
        given = values_of(function)
        for node in ast.walk(function):
            if isinstance(node, ast.Assert):
                for side in sides(node.test):
                    more = given.get(side.id, []) if isinstance(side, ast.Name) else []
                    found |= {text: text.lineno for part in (side, *more) for text in literals(part)}
    return found


def handed_in(tree: ast.AST, without: set[ast.Constant]) -> list[str]:
    """Every other text of the module, but for docstrings and what a failed assertion would say."""
    left = set(without)
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            left.add(node.value)
        elif isinstance(node, ast.Assert) and node.msg is not None:
            left |= {one for one in ast.walk(node.msg) if isinstance(one, ast.Constant)}
    values = [one.value for one in ast.walk(tree) if isinstance(one, ast.Constant) and one not in left]
    texts = [one for one in values if isinstance(one, str)]
    return texts + [one.decode(errors="replace") for one in values if isinstance(one, bytes)]


def prose(source: str) -> list[tuple[int, str]]:
    """(line, text) of each sentence that the assertions of a module hold on to."""
    tree = ast.parse(source)
    held = asserted(tree)
    read = {text: line for text, line in held.items() if SENTENCE.search(COMMAND.sub("", text.value))}
    others = handed_in(tree, set(held)) if read else []
    return sorted(
        (line, text.value)
        for text, line in read.items()
        if not any(text.value.strip() in one for one in others)
    )


def test_such_assertions_are_found() -> None:
    for line in (
        'assert "the disk is full" in said',
        'assert said == f"{n} files were not read"',
        'assert said.startswith(("no such run here", "x"))',
        'assert re.search(r"of \\d+ files were lost", said)',
        'assert all(one in said for one in ("a", "nothing was found"))',
        'assert "a" if x else "the file is gone" == said',
    ):
        assert len(prose(f"def test():\n    {line}")) == 1, line
    held = """
@pytest.mark.parametrize(("a", "b"), [(1, "no judge is there"), pytest.param(2, "it was left out")])
def test(a, b):
    assert b in run(a)
    for word in ("x", "none of them is"):
        assert word in said
"""
    assert [line for line, _ in prose(held)] == [2, 2, 5]


def test_data_is_no_prose() -> None:
    for line in (
        'assert read("the disk is full") == 3',
        'assert "birdsd run train method=lora" in said, "with all that it needs"',
        'assert "model.name=tiny 3 s" in said and said == ["a", "two words"]',
        'tell("the disk is full")\n    assert "disk is full" in said',
        'write(b"of rank three\\n")\n    assert said == "of rank three\\n"',
        'with pytest.raises(ValueError, match="nothing to draw from"):\n        pass',
    ):
        assert prose(f"def test():\n    {line}") == [], line
