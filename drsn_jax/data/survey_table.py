"""A survey as a table of plain text."""

from collections.abc import Sequence

from drsn_jax.data.survey import Example, Survey, shown_size
from drsn_jax.data.tree import first_three


def format_survey(survey: Survey) -> str:
    """What was found against what is expected, what is missing, extra or damaged, and the splits that would be stored."""
    unit = "pairs" if survey.kind == "pairs" else "images"
    rows = [("part", "scenes", unit, "size")]
    for name, part in survey.parts.items():
        found, expected = part.found, part.expected
        counts = (_count(found.scenes, expected.scenes), _count(found.examples, expected.examples))
        rows.append((name, *counts, _sizes(part.examples)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [f"{survey.title} in {survey.source}"]
    lines += ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += [f"Not as expected: {problem}" for problem in survey.problems]
    lines += survey.notes
    if survey.extra:
        lines.append(f"Other files, left alone: {len(survey.extra):,} ({first_three(survey.extra)})")
    splits = ", ".join(f"{name} {len(examples):,}" for name, examples in survey.splits.items() if examples)
    lines.append(f"Splits: {splits or 'none'}; {survey.num_bytes / 1e9:.2f} GB")
    return "\n".join(lines) + "\n"


def _count(found: int | None, expected: int | None) -> str:
    return (f"{found:,}" if found else "-") if expected is None else f"{found:,} of {expected:,}"


def _sizes(examples: Sequence[Example]) -> str:
    """'1280x720', or from the smallest to the largest by area."""
    sizes = sorted({size for example in examples for size in example.sizes.values()}, key=lambda size: (size[0] * size[1], size))
    if not sizes:
        return "-"
    return shown_size(sizes[0]) if len(sizes) == 1 else f"{shown_size(sizes[0])} to {shown_size(sizes[-1])}"
