"""What the site needs besides the files in docs/: pages made from the code, slurm/'s READMEs, and pictures.

MkDocs calls these while it builds (`hooks:` in mkdocs.yml).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from birdsd import schema
from docs.tools import picture, reference

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
# Pages that are written elsewhere in the checkout: their place there is their place in the site, too.
ELSEWHERE = ("slurm/README.md", "slurm/testbed/README.md")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Give every job its line in the navigation, below the list of jobs."""
    found = [part for part in _lists(config.nav or []) if "jobs/index.md" in part]
    if len(found) != 1:
        raise ValueError("mkdocs.yml: jobs/index.md must stand in the navigation once")
    found[0].extend(f"jobs/{job}.md" for job in (*schema.JOBS, schema.SUBMIT))
    return config


def _lists(nav: list[Any]) -> Iterator[list[Any]]:
    """Every list of the navigation, from the outside in."""
    yield nav
    for item in nav:
        for part in item.values() if isinstance(item, dict) else ():
            if isinstance(part, list):
                yield from _lists(part)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that do not lie in docs/."""
    from mkdocs.structure.files import File

    elsewhere = {name: (ROOT / name).read_text(encoding="utf-8") for name in ELSEWHERE}
    for name, text in {**reference.pages(), **elsewhere}.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Draw the pictures; and lead links to where a page of the checkout lies in the site."""
    return picture.drawn(inside(markdown, page.file.src_uri))


def inside(markdown: str, name: str) -> str:
    """A page with its links between docs/ and the rest of the checkout as the site has them."""
    if name in ELSEWHERE:
        return re.sub(r"\]\((?:\.\./)+docs/", "](" + "../" * name.count("/"), markdown)
    return re.sub(r"\]\(((?:\.\./)*)\.\./slurm/", r"](\1slurm/", markdown)
