"""The site: it builds strictly, asks nothing of the network, shows its picture, and has every page."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from birdsd import schema
from docs.tools import hooks, picture, reference
from tests.docs.commands import ROOT, documents

MADE = {ROOT / "docs" / name for name in reference.pages()}
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def build(checkout: Path, out: Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    return subprocess.run(words, cwd=checkout, capture_output=True, text=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="MkDocs is not installed: `make docs` installs it")
    out = tmp_path_factory.mktemp("site")
    done = build(ROOT, out)
    assert done.returncode == 0, done.stderr[-2000:]
    return out


def test_every_page_is_there(site: Path) -> None:
    names = {str(path.relative_to(site)) for path in site.rglob("*.html")}
    for job in (*schema.JOBS, schema.SUBMIT):
        assert f"jobs/{job}.html" in names
    for place in documents():
        if place != "README.md":
            page = re.sub(r"\.md$", ".html", place.removeprefix("docs/")).replace("README", "index")
            assert page in names, place
    assert not (site / "tools").exists()


def test_no_page_asks_the_network_for_anything(site: Path) -> None:
    outside = re.compile(r"""(?:<(?:script|img|iframe)[^>]*\bsrc|<link[^>]*\bhref)=["']?(?:https?:)?//""")
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert not outside.search(text), path
        assert 'class="mermaid"' not in text, f"{path}: a script would fetch Mermaid from elsewhere"
    for path in site.rglob("*.css"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", text), path
    assert "<svg" in (site / "architecture.html").read_text(encoding="utf-8")


def test_a_link_that_leads_nowhere_ends_the_build(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="MkDocs is not installed: `make docs` installs it")
    checkout = tmp_path / "checkout"
    for part in ("docs", "slurm", "birdsd", "configs", "jobs"):
        shutil.copytree(ROOT / part, checkout / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "mkdocs.yml", checkout)
    (checkout / "birdsd" / "configs").symlink_to(checkout / "configs")
    with (checkout / "docs" / "index.md").open("a") as page:
        page.write("\n[a](no-such-page.md) [b](memory.md#no-such-heading) [c](jobs/no-such-job.md)\n")
    (checkout / "docs" / "in-no-navigation.md").write_text("# Alone\n")
    done = build(checkout, tmp_path / "site")
    assert done.returncode != 0
    for word in ("no-such-page.md", "no-such-heading", "no-such-job.md", "in-no-navigation.md"):
        assert word in done.stderr, word


def test_the_commands_that_build_it_are_strict() -> None:
    """--quiet would hide warnings from --strict, too."""
    (line,) = re.findall(r"^\t.*mkdocs build.*$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert "--strict" in line and "quiet" not in line and "-q" not in line.split()
    assert "make docs" in (ROOT / ".ci" / "run").read_text().splitlines()


# -- links of pages in the checkout ------------------------------------------------------------


def broken_links(place: str, markdown: str) -> list[str]:
    """Relative links of a page that lead to no file of the checkout, or to no heading of a page."""
    broken = []
    prose = re.sub(r"^```.*?^```$", "", markdown, flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        name, _, heading = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        path = (ROOT / place).parent / name if name else ROOT / place
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        there = path.exists() or path.resolve() in MADE
        if not there or (text and heading and heading not in headings(text)):
            broken.append(target)
    return broken


def headings(markdown: str) -> set[str]:
    """The anchors of a page's headings, as GitHub and MkDocs make them."""
    lines = re.findall(r"^#+ (.*)$", markdown, re.MULTILINE)
    return {re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", line).strip().lower()) for line in lines}


@pytest.mark.parametrize("place", documents())
def test_links_lead_somewhere_in_the_checkout_too(place: str) -> None:
    assert broken_links(place, documents()[place]) == []


def test_a_broken_link_would_be_seen() -> None:
    page = "[a](docs/memory.md) [b](docs/nowhere.md) [c](docs/memory.md#nowhere) [d](https://example.org)"
    assert broken_links("README.md", page) == ["docs/nowhere.md", "docs/memory.md#nowhere"]
    assert (
        broken_links("docs/memory.md", "[a](notebook.md#a-laptop-with-windows-wsl2) [b](jobs/train.md)") == []
    )


# -- the picture --------------------------------------------------------------------------------------------


def test_the_picture_has_every_box_and_arrow_of_the_text() -> None:
    (source,) = re.findall(r"^```mermaid\n(.*?)^```", ARCHITECTURE, re.DOTALL | re.MULTILINE)
    graph = picture.read_graph(source)
    shown = picture.drawn(ARCHITECTURE)
    assert "```mermaid" not in shown
    assert shown.count("<rect") == len(graph.words) == 16
    assert shown.count("marker-end") == len(graph.arrows) == len(source.strip().splitlines()) - 1
    assert ("cli", "jobs", "by name") in graph.arrows
    assert graph.words["jobs"] == "jobs: recipes"


def test_boxes_lie_below_what_points_to_them_and_not_over_each_other() -> None:
    (source,) = re.findall(r"^```mermaid\n(.*?)^```", ARCHITECTURE, re.DOTALL | re.MULTILINE)
    drawing = picture.Drawing(picture.read_graph(source))
    places = drawing.places
    for start, end, _ in drawing.graph.arrows:
        assert places[start].row < places[end].row
    for row in drawing.rows:
        for left, right in pairwise(row):
            apart = places[right].x - places[left].x
            assert apart >= (drawing._width(left) + drawing._width(right)) / 2


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("graph TD\n a --> b\n b --> c\n c --> a", "circle"),
        ("graph TD\n a -->|words| b", "cannot draw"),
        ("sequenceDiagram\n a->>b: hello", "only graph TD"),
    ],
)
def test_what_cannot_be_drawn_ends_the_build(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        picture.drawn(f"```mermaid\n{text}\n```\n")


def test_links_between_docs_and_slurm_are_those_of_the_site() -> None:
    assert hooks.inside("[a](../slurm/README.md#x)", "memory.md") == "[a](slurm/README.md#x)"
    assert hooks.inside("[a](../../slurm/README.md)", "tutorials/cluster.md") == "[a](../slurm/README.md)"
    assert hooks.inside("[a](../docs/memory.md)", "slurm/README.md") == "[a](../memory.md)"
    assert hooks.inside("[a](../../docs/memory.md)", "slurm/testbed/README.md") == "[a](../../memory.md)"
