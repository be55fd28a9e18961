"""README.md, RESULTS.md and the model cards: every command is one that the command line takes, and every link leads somewhere."""

import re
import shlex
from pathlib import Path

import pytest

from drsn_jax.cli.main import VERBS, main
from drsn_jax.config.files import load_config

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "RESULTS.md", *sorted((ROOT / "drsn_jax" / "weights" / "shipped").glob("*/README.md"))]


def commands():
    """The arguments of every `drsn-jax` in the shell blocks of all pages."""
    for page in PAGES:
        for block in re.findall(r"^```bash\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                yield from (words[at + 1 :] for at, word in enumerate(words) if word == "drsn-jax")


def test_every_command_is_taken(monkeypatch):
    given = []
    for name, verb in VERBS.items():
        monkeypatch.setitem(VERBS, name, verb._replace(run=lambda arguments: given.append(arguments) or 0))
    assert [words for words in commands() if main(words) != 0] == []
    assert {"prepare", "train", "evaluate", "compare", "convert", "export", "restore", "serve", "bench", "info"} == {
        arguments.verb for arguments in given
    }
    for arguments in given:
        if arguments.overrides:
            load_config(arguments.config, arguments.overrides)


def headings(page):
    """What the headings of a page are called in links, as GitHub makes it of them."""
    lines = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^a-z0-9 _-]", "", line.lower()).strip().replace(" ", "-") for line in lines}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page):
    links = [link for link in re.findall(r"\]\(([^)]+)\)", page.read_text()) if not link.startswith("https:")]
    for link in links:
        file, _, heading = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), link
        assert not heading or heading in headings(target), link
