"""Pages of the site that are made from the code: a hook of MkDocs (`hooks` in mkdocs.yml), run by `mkdocs build --strict`.

The page of a verb is made from its parser, the page of the configuration from the comments of configs/default.py, and the pages of the
models and of the projection from their READMEs.
"""

import argparse
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # MkDocs runs in any folder, and the package need not be installed
    sys.path.insert(0, str(ROOT))

CARDS = ROOT / "drsn_jax" / "weights" / "shipped"
VERBS_PAGE = "reference/commands/index.md"


def on_files(files: Any, config: Any) -> Any:
    """Add the pages to MkDocs' files (an event of its plugins)."""
    from mkdocs.structure.files import File

    for address, content in make_pages().items():
        files.append(File.generated(config, address, content=content))
    return files


def on_page_content(html: str, **_: Any) -> str:
    """Make empty header cells of tables plain cells, because a screen reader would announce an empty header (an event of the plugins)."""
    return html.replace("<th></th>", "<td></td>")


def make_pages() -> dict[str, str]:
    """Make every page: its address below docs/, and its Markdown."""
    from drsn_jax.cli.main import VERBS, make_parser

    pages = {VERBS_PAGE: describe_verbs()}
    verbs = _subparsers(make_parser())
    pages |= {f"reference/commands/{name}.md": describe_verb(name, verbs[name]) for name in VERBS}
    pages["reference/configuration.md"] = describe_configuration((ROOT / "configs" / "default.py").read_text())
    pages |= {f"reference/models/{card.parent.name}.md": move_card(card.read_text()) for card in sorted(CARDS.glob("*/README.md"))}
    pages["explanation/projection.md"] = move_projection((ROOT / "tools" / "projection" / "README.md").read_text())
    return pages


def describe_verbs() -> str:
    """Make the table of all verbs."""
    from drsn_jax.cli.main import VERBS

    rows = "".join(f"| [`{name}`]({name}.md) | {_cell(verb.help)} |\n" for name, verb in VERBS.items())
    return (
        "# Commands\n\n`drsn-jax VERB --help` prints the same text; both are made from the parsers.\n"
        "[Faults and exit codes](../faults-and-exit-codes.md) has the exit codes.\n\n"
        f"| verb | |\n|---|---|\n{rows}"
    )


def describe_verb(name: str, parser: argparse.ArgumentParser) -> str:
    """Make the page of one verb, and of its subparsers."""
    text = f"# drsn-jax {name}\n\n{_describe_parser(parser)}"
    for below, subparser in _subparsers(parser).items():
        text += f"\n## {name} {below}\n\n{_describe_parser(subparser)}"
    return text


def _describe_parser(parser: argparse.ArgumentParser) -> str:
    examples, _, rest = _split_epilog(parser.epilog or "")
    text = f"{_sentence(parser.description or '')}\n\n"
    text += f"```bash\n{examples}\n```\n\n" if examples else ""
    text += f"{_markdown(rest)}\n\n" if rest else ""
    formatter = argparse.HelpFormatter(parser.prog, width=84)
    formatter.add_usage(parser.usage, parser._actions, parser._mutually_exclusive_groups, prefix="")
    text += f"```text\n{formatter.format_help().strip()}\n```\n\n"
    for group in parser._action_groups:
        rows = [
            _row(action) for action in group._group_actions if not isinstance(action, argparse._SubParsersAction | argparse._HelpAction)
        ]
        if rows:
            title = {"positional arguments": "Arguments", "options": "Options"}.get(group.title or "", group.title or "")
            text += f"**{title[:1].upper()}{title[1:]}**\n\n| | |\n|---|---|\n{''.join(rows)}\n"
    return text


def _split_epilog(epilog: str) -> tuple[str, str, str]:
    """Split an epilog into (commands, a separator, the rest); commands are the indented lines."""
    lines = epilog.splitlines()
    commands = [line.strip() for line in lines if line.startswith("  ")]
    rest = " ".join(line for line in lines if not line.startswith("  ") and line.strip() not in ("", "Examples:", "Example:"))
    return "\n".join(commands), "", rest


def _row(action: argparse.Action) -> str:
    names = action.option_strings or [str(action.metavar or action.dest)]
    values = f"{{{','.join(map(str, action.choices))}}}" if action.choices and not action.metavar else action.metavar
    value = "" if action.nargs == 0 or not action.option_strings else f" {values or action.dest.upper()}"
    required = "**Required.** " if action.required and action.option_strings else ""
    return f"| `{', '.join(names)}{value}`".replace("|", "\\|").replace("\\|", "|", 1) + f" | {required}{_cell(action.help or '')} |\n"


def _subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    found = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(found[0].choices) if found else {}


class Key(NamedTuple):
    """One key of the configuration: its section, name, default as written, and comment."""

    section: str
    name: str
    default: str
    comment: str


def read_keys(source: str) -> Iterator[Key]:
    """Read the keys of configs/default.py, in order."""
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    section = ""
    for number, line in enumerate(source.splitlines(), start=1):
        if line.strip().startswith("#"):
            section = comments[number]
        elif match := re.match(r" +config\.(\w+) = (.*)$", line):
            comment = comments.get(number, "")
            default = match[2].removesuffix(comment).rstrip("# ") if comment else match[2]
            yield Key(section, match[1], default, comment)


def describe_configuration(source: str) -> str:
    """Make the page of all keys, by sections."""
    text = (ROOT / "docs" / "reference" / "configuration.in.md").read_text()
    sections: dict[str, list[Key]] = {}
    for key in read_keys(source):
        sections.setdefault(key.section, []).append(key)
    for section, keys in sections.items():
        rows = "".join(f'| <span id="{key.name}"></span>`{key.name}` | `{_code(key.default)}` | {_cell(key.comment)} |\n' for key in keys)
        text += f"\n## {section}\n\n| key | default | meaning |\n|---|---|---|\n{rows}"
    return text


def move_card(text: str) -> str:
    """Adapt the links of a model's card to reference/models/."""
    text = text.replace("(../../../../docs/", "(../../")
    return re.sub(r"\(\.\./(\w+)/README\.md\)", r"(\1.md)", text)


def move_projection(text: str) -> str:
    """Adapt the links of the projection's README to explanation/; the code is named, not linked."""
    text = text.replace("(../../docs/explanation/", "(").replace("(../../docs/", "(../")
    return re.sub(r"\[([\w.]+)\]\(\1\)", r"`tools/projection/\1`", text)


def _sentence(text: str) -> str:
    text = _markdown(text.strip())
    return f"{text[:1].upper()}{text[1:]}" + ("" if text.endswith(".") else ".")


def _cell(text: str) -> str:
    return _markdown(" ".join(text.replace("%%", "%").split())).replace("|", "\\|")


def _markdown(text: str) -> str:
    """Convert plain text to Markdown: options as code, everything else escaped."""
    parts = text.split("`")
    for i in range(0, len(parts), 2):  # the parts that are not code already
        plain = re.sub(r"([*\[\]~<])", r"\\\1", parts[i])
        parts[i] = re.sub(r"(?<![\w-])(--[\w.-]+(?:=[\w./:,{}-]*[\w/}])?)(?!\w)", r"`\1`", plain)
    return "`".join(parts)


def _code(text: str) -> str:
    return text.replace("|", "\\|")
