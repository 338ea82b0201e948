"""What the documentation tells people to type works: Python blocks are run, commands parsed, links followed."""

from __future__ import annotations

import functools
import importlib.util
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import hyperfields
from hyperfields import cli
from hyperfields.scenes import SAMPLES

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
BLOCK = re.compile(r"^```(?P<language>[^\n]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(text: str) -> list[tuple[str, str, str]]:
    """(heading above, language, content) of each fenced block."""
    found = []
    for match in BLOCK.finditer(text):
        outside = BLOCK.sub("", text[: match.start()])  # a comment of a block is no heading
        headings = re.findall(r"^#+ (.+)$", outside, re.MULTILINE)
        found.append((headings[-1] if headings else "", match["language"].strip(), match["body"]))
    return found


def python_blocks(page: str) -> list[tuple[str, str]]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return [(heading, body) for heading, language, body in blocks(text) if language == "python"]


def run_block(name: str, code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Names that a block defines; it is run as a module of its own, in `folder`, as a reader would."""
    monkeypatch.chdir(folder)
    path = folder / f"{name}.py"
    path.write_text(code, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return vars(module)


RECIPES = python_blocks("docs/extending.md")


@pytest.mark.parametrize(("heading", "code"), RECIPES, ids=[heading for heading, _ in RECIPES])
def test_recipes(heading: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_block(f"recipe_{heading.replace(' ', '_').lower()}", code, tmp_path, monkeypatch)


def test_there_is_a_recipe_for_each_extension() -> None:
    headings = [heading for heading, _ in RECIPES]
    assert len(headings) == len(set(headings)) == 11
    linked = re.findall(r"^\| \[(.+?)\]\(#(.+?)\)", (ROOT / "docs/extending.md").read_text(), re.MULTILINE)
    assert [text.replace("a ", "A ", 1).replace("an ", "An ", 1) for text, _ in linked] == headings
    assert [anchor for _, anchor in linked] == [heading.lower().replace(" ", "-") for heading in headings]


# README -------------------------------------------------------------------------------------------

# What makes the README's code short: the text of the page -> what is run here.
SHORTER = {
    r"minutes=\d+": "steps=12, progress=False",
    r"size=\(\d+, \d+\)": "size=(16, 16)",
    r"\.mesh\(\)": ".mesh(resolution=24)",
}


@pytest.mark.parametrize("number", range(2))
def test_readme_python(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(python_blocks("README.md")) == 2
    _, code = python_blocks("README.md")[number]
    for text, shorter in SHORTER.items():
        code = re.sub(text, shorter, code)
    (tmp_path / "scenes").mkdir()
    (tmp_path / "scenes" / "samples").symlink_to(SAMPLES)
    names = run_block(f"readme_{number}", code, tmp_path, monkeypatch)
    assert "run" in names


def test_readme_needs_six_lines() -> None:
    _, code = python_blocks("README.md")[0]
    assert len([line for line in code.splitlines() if line and not line.startswith("import")]) == 6


# Commands -----------------------------------------------------------------------------------------


def commands(page: Path) -> Iterator[list[str]]:
    """Words of each `hyperfields VERB ...` of a page, in blocks without a language and in the text."""
    text = page.read_text(encoding="utf-8")
    lines = [line for _, language, body in blocks(text) if not language for line in body.splitlines()]
    lines += re.findall(r"`(hyperfields\s+[a-z]+\s[^`]*)`", BLOCK.sub("", text))
    for line in lines:
        words = shlex.split(line, comments=True)
        if len(words) > 1 and words[0] == "hyperfields" and "..." not in words and words[1] in cli.VERBS:
            yield words[1:]


COMMANDS = [(page.name, shlex.join(words)) for page in PAGES for words in commands(page)]


def without_work(verb: Callable[..., None]) -> Callable[..., None]:
    """A verb that reads its arguments and does nothing."""

    @functools.wraps(verb)
    def parsed(*args: Any, **kwargs: Any) -> None:
        pass

    return parsed


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_commands_exist(page: str, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The verb is there, and so is each option."""
    for_tyro = cli._for_tyro
    monkeypatch.setattr(cli, "_for_tyro", lambda verb: without_work(for_tyro(verb)))
    assert cli.main(shlex.split(command)) == 0


def test_commands_are_seen() -> None:
    assert len([page for page, _ in COMMANDS if page == "README.md"]) >= 9


# Options that make the lines of the README's command block short, and names that stand for others. No page is opened.
SMALL = {
    "fit": "--size 16x16 --scenes k_taxi,q_public_Bus,q_real_Cop --steps 4",
    "eval": "",
    "render": "--size 16x16 --orbit 3",
    "interpolate": "--size 16x16 --frames 3",
    "transfer": "--size 16x16",
    "latents": "",
    "infer": "--scenes k_race --steps 3",
    "export": "",
    "add": "--scenes k_race --steps 3",
    "compare": "--size 8x8 --limit 32 --steps 2",
    "view": None,
}
PLACES = {"FOLDER": str(SAMPLES / "cars_views"), "OTHER": str(SAMPLES / "cars_views"), "NAME": "k_taxi"}
PLACES |= {"A": "k_taxi", "B": "q_public_Bus", "C": "q_real_Cop", "car.glb": "car.safetensors"}


@pytest.mark.slow
def test_readme_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = next(body for _, language, body in blocks(text) if not language and body.startswith("hyperfields fit"))
    ran = []
    for line in block.splitlines():
        words = [PLACES.get(word, word) for word in shlex.split(line, comments=True)[1:]]
        if words[0] == "compare":  # of few views, no generator takes so few bytes
            words[1] = str(SAMPLES / "emoji")
        more = SMALL[words[0]]
        if more is not None:
            if "--minutes" in words:
                del words[words.index("--minutes") : words.index("--minutes") + 2]
            assert cli.main([*words, *more.split()]) == 0, line
            ran.append(words[0])
    assert list(dict.fromkeys(ran)) == [verb for verb, more in SMALL.items() if more is not None]
    assert {path.name for path in tmp_path.iterdir()} >= {"turn.gif", "morph.mp4", "new.safetensors", "car.safetensors"}


@pytest.mark.parametrize("page", PAGES, ids=[page.relative_to(ROOT).as_posix() for page in PAGES])
def test_links_lead_somewhere(page: Path) -> None:
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\((?!https?:)([^)#\s]+)", text):
        assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    for page in PAGES:
        asked = set(re.findall(r"(?:`|^)make ([a-z-]+)", page.read_text(encoding="utf-8"), re.MULTILINE))
        assert asked <= targets, f"{page.name}: {asked - targets}"


@pytest.mark.parametrize("page", PAGES, ids=[page.relative_to(ROOT).as_posix() for page in PAGES])
def test_names_and_files_exist(page: Path) -> None:
    """`hf.NAME` is public; a file of the package, in backticks, is there. The changelog may name what has gone."""
    if page.name == "CHANGELOG.md":
        return
    text = page.read_text(encoding="utf-8")
    names = set(re.findall(r"\bhf\.([A-Za-z]\w*)", text))
    assert names <= set(hyperfields.__all__), f"{page.name}: {sorted(names - set(hyperfields.__all__))}"
    for file in re.findall(r"`((?:[\w.]+/)+\w*(?:\.py)?)`", text):
        places = (ROOT / file, ROOT / "hyperfields" / file, ROOT / "hyperfields" / "ops" / file)
        made = file.startswith(("runs/", "build/", "out/")) or re.search("NAME|DATA", file)
        assert made or any(place.exists() for place in places), f"{page.name}: {file}"
