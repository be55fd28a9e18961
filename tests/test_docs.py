"""README.md, docs/, the pages made from the code and the model cards: commands are taken, Python runs, links lead somewhere."""

import os
import re
import shlex
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")  # before keras is imported

import numpy as np
import pytest
from networks import quick_compiles  # noqa: F401
from PIL import Image

from drsn_jax.cli.main import VERBS, main
from drsn_jax.config.files import base_config, load_config
from site_pages import make_pages, read_keys

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
CARDS = sorted((ROOT / "drsn_jax" / "weights" / "shipped").glob("*/README.md"))
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md")), *CARDS, ROOT / "tools" / "projection" / "README.md"]
GENERATED = make_pages()
BLOCK = r"^( *)```{}\n(.*?)^ *```"


def name_of(page):
    return page.relative_to(ROOT).as_posix()


def texts():
    yield from (page.read_text() for page in PAGES)
    yield from GENERATED.values()


def blocks(language, text):
    return [re.sub(f"^{indent}", "", block, flags=re.MULTILINE) for indent, block in re.findall(BLOCK.format(language), text, re.S | re.M)]


def commands():
    """Return the arguments of every `drsn-jax` in the shell blocks of all pages."""
    for text in texts():
        for block in blocks("bash", text):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                yield from (words[at + 1 :] for at, word in enumerate(words) if word == "drsn-jax" and words[at - 1] != "install")


def test_the_readme_is_one_page():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    assert len(text.encode()) <= 9_000


def test_every_command_is_taken(monkeypatch):
    given = []
    for name, verb in VERBS.items():
        monkeypatch.setitem(VERBS, name, verb._replace(run=lambda arguments: given.append(arguments) or 0))
    assert [words for words in commands() if main(words) != 0] == []
    assert set(VERBS) == {arguments.verb for arguments in given}
    for arguments in given:
        if arguments.overrides:
            load_config(arguments.config, arguments.overrides)


PYTHON = [page for page in PAGES if blocks("python", page.read_text())]
KNOWN_ELSEWHERE = {"docs/how-to/train-from-python.md": 1}  # its first block is what tests/training/test_functional.py runs


@pytest.mark.parametrize("page", PYTHON, ids=name_of)
def test_the_python_of_a_page_runs(page, tmp_path, monkeypatch, quick_compiles):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (24, 28, 3), np.uint8)
    Image.fromarray(image).save("photo.jpg")
    names = {"image": image}
    for block in blocks("python", page.read_text())[KNOWN_ELSEWHERE.get(name_of(page), 0) :]:
        exec(compile(block, name_of(page), "exec"), names)
    if "restored" in names:
        assert np.shape(names["restored"])[-3:] == np.shape(names["image"])[-3:]


def test_contributing_names_what_there_is():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)) + re.findall(r"pytest (.*?) &&", text)
    files = {word for name in named for word in name.split() if re.fullmatch(r"\.?\w[\w.]*(/[\w.]+)+/?", word) and "NAME" not in word}
    assert len(files) > 10, "files are found at all"
    assert [name for name in files if not (ROOT / name).exists()] == []
    code = "\n".join(path.read_text() for path in (ROOT / "drsn_jax").rglob("*.py"))
    words = {name for name in named if re.fullmatch(r"_?[A-Z][A-Z_]{3,}|_?[a-z]+(_[a-z]+)+", name)} - {"NAME"}
    assert len(words) > 10
    assert [word for word in words if not re.search(rf"\b{word}\b", code)] == []


def headings(text):
    """Return the anchors of a page's headings, as GitHub and MkDocs make them."""
    lines = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^a-z0-9 _-]", "", line.lower()).strip().replace(" ", "-") for line in lines} | set(re.findall(r'id="(\w+)"', text))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page):
    links = [link for link in re.findall(r"\]\(([^)]+)\)", page.read_text()) if not link.startswith("https:")]
    if page.name == "configuration.in.md":
        page = page.with_name("configuration.md")
    for link in links:
        file, _, heading = link.partition("#")
        target = Path(os.path.normpath(page.parent / file)) if file else page
        generated = GENERATED.get(target.relative_to(DOCS).as_posix()) if target.is_relative_to(DOCS) else None
        assert generated or target.exists(), link
        assert not heading or heading in headings(generated or target.read_text()), link


def test_the_pages_that_are_made_from_the_code():
    configuration = GENERATED["reference/configuration.md"]
    keys = list(read_keys((ROOT / "configs" / "default.py").read_text()))
    assert sorted(key.name for key in keys) == sorted(base_config())
    critic_batches = next(key for key in keys if key.name == "critic_batches")
    assert (critic_batches.section, critic_batches.default) == ("Critic updates", '"same"')
    assert f'<span id="critic_batches"></span>`critic_batches` | `"same"` | {critic_batches.comment}' in configuration
    assert {f"reference/commands/{name}.md" for name in VERBS} <= set(GENERATED)
    assert "`--strength S` | share of the change" in GENERATED["reference/commands/restore.md"]
    assert "## prepare gopro" in GENERATED["reference/commands/prepare.md"]
    nav = (ROOT / "mkdocs.yml").read_text()
    assert [page for page in GENERATED if f"- {page}\n" not in nav] == []
