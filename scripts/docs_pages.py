"""Pages that `make docs` adds to docs/: files of the repository's root, and an API reference, one page a room.

A hook of mkdocs (`hooks:` in mkdocs.yml). No page of the reference is written by hand: rooms are the folders and
modules of the package, and the first page lists its public names.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
# Page -> file of the root; README's first page is the first of the site.
ROOT_PAGES = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "numbers.md": "NUMBERS.md",
    "security.md": "SECURITY.md",
    "changelog.md": "CHANGELOG.md",
}
LINK = re.compile(r"(?<=\]\()(?!https?:|#|mailto:)([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Site with the pages of the root and the API reference added."""
    for page, name in ROOT_PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=from_root(text)))
    for page, text in api_pages().items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: object) -> str:
    """Page of docs/ whose links to files of the root (`../NUMBERS.md`, `../../NUMBERS.md`) lead to their pages."""
    targets = {name: target for target, name in ROOT_PAGES.items()}

    def moved(match: re.Match[str]) -> str:
        link = match[1]
        up, name = link.rsplit("/", 1) if "/" in link else ("", link)
        depth = page.file.src_uri.count("/")
        return "../" * depth + targets[name] if up == "/".join([".."] * (depth + 1)) and name in targets else link

    return LINK.sub(moved, markdown)


def from_root(text: str) -> str:
    """Text of a file of the root with links as its page needs them: `docs/gpu.md` is `gpu.md` there."""
    targets = {name: page for page, name in ROOT_PAGES.items()}
    return LINK.sub(lambda match: targets.get(match[1], match[1].removeprefix("docs/")), text)


def api_pages() -> dict[str, str]:
    """Markdown of the reference: `reference/index.md` with the public names, `reference/ROOM.md` for each room."""
    package = importlib.import_module("hyperfields")
    rooms = sorted({name_of_room(path) for path in Path(inspect.getfile(package)).parent.glob("*")} - {""})
    rooms = sorted({*rooms, "scenes", "viewer"})
    page = "---\ntitle: hyperfields.{0}\n---\n\n::: hyperfields.{0}\n    options: {{ heading_level: 1 }}\n"
    pages = {f"reference/{room}.md": page.format(room) for room in rooms}
    return {"reference/index.md": index(package, rooms), **pages}


def name_of_room(path: Path) -> str:
    """Room of a file or folder at the top of the package, empty for what is none."""
    is_room = path.suffix == ".py" or (path / "__init__.py").is_file()
    return path.stem if is_room and not path.stem.startswith("_") else ""


def index(package: Any, rooms: Iterable[str]) -> str:
    """First page of the reference: every public name, by room, with the first line of its docstring."""
    lines = ["# API reference", "", "Names of `import hyperfields as hf`, then the rooms that define them.", ""]
    lines += ["| name | what it is |", "|---|---|"]
    for name in sorted(package.__all__, key=str.lower):
        value = getattr(package, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            first = (inspect.getdoc(value) or "").split("\n\n")[0].replace("\n", " ").replace("|", "\\|")
            lines.append(f"| [`hf.{name}`][{value.__module__}.{value.__qualname__}] | {first} |")
    lines += ["", "## Rooms", "", "| room | what lives there |", "|---|---|"]
    for room in rooms:
        doc = inspect.getdoc(importlib.import_module(f"hyperfields.{room}")) or ""
        first = doc.split("\n\n")[0].replace("\n", " ").replace("|", "\\|")
        lines.append(f"| [`hyperfields.{room}`]({room}.md) | {first} |")
    return "\n".join(lines) + "\n"
