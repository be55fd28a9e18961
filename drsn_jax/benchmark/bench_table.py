"""The document of a bench as text for a terminal: times side by side with ratios, other measurements, and notes."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from drsn_jax.benchmark.rows import LOADER, family_of, precision_of

WIDTH = 140
Row = Mapping[str, Any]


def format_bench(document: Mapping[str, Any]) -> str:
    """Format both tables and the notes, without a newline at the end."""
    machine, versions = document["machine"], document["versions"]
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    head = [
        f"{machine['cpu']}, {machine['cores']} cores; {machine['platform']}: {machine['device']}",
        f"{packages}; {document['date']}",
        f"Batch {document['config']['batch_size']}. Times are medians (smallest-largest) after a compilation and a warm-up; every subject"
        " runs once per round, in turn, in a process of its own per row; the results of each call are awaited.",
    ]
    head = [textwrap.fill(line, WIDTH) for line in head]
    notes = [textwrap.fill(note, WIDTH, initial_indent="- ", subsequent_indent="  ") for note in document["notes"]]
    times, details = _format_times(document["rows"], document["subjects"]), _format_details(document["rows"])
    return "\n".join([*head, "", *times, "", *details, *([""] if notes else []), *notes])


def format_seconds(seconds: float) -> str:
    """Format with three digits, in s or ms."""
    if seconds >= 100:
        return f"{seconds:.0f} s"
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"


def _format_times(rows: Sequence[Row], subjects: Sequence[str]) -> list[str]:
    """Format one line per row and precision, one column per family of subjects; the reference's loader is below the first back end."""
    keras = [subject for subject in subjects if subject != "ours"]
    lines = [["", "", *subjects, *(["Keras / ours"] if keras else [])]]
    if keras:
        lines.append([""] * (len(subjects) + 2) + ["> 1: ours faster"])
    for row in rows:
        names = {LOADER: keras[0]} if keras else {}
        cells = {(precision_of(cell["subject"]), names.get(cell["subject"], family_of(cell["subject"]))): cell for cell in row["cells"]}
        precisions = list(dict.fromkeys(precision for precision, _ in cells))
        for i, precision in enumerate(precisions):
            times = [_format_time(cells.get((precision, subject))) for subject in subjects]
            ratio = [_format_ratio(row["ratios"].get(precision))] if keras else []
            lines.append([row["title"] if i == 0 else "", precision, *times, *ratio])
    text = _align(lines, left=2)
    if keras:
        text.append("Keras / ours: the fastest Keras median over ours in the same precision. Above 1 ours is faster, below 1 Keras is.")
    return text


def _align(lines: Sequence[Sequence[str]], *, left: int) -> list[str]:
    """Pad columns to their longest entry; the first `left` ones are left-aligned, the others right-aligned."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    sides = ["<" if i < left else ">" for i in range(len(widths))]
    return ["   ".join(f"{text:{side}{width}}" for text, side, width in zip(line, sides, widths, strict=True)).rstrip() for line in lines]


def _format_time(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return "-"
    if "median" not in cell:
        return "failed" if "error" in cell else "not measured"
    low, high = (value * (1 if cell["median"] >= 1 else 1000) for value in cell["spread"])
    return f"{format_seconds(cell['median'])} ({low:.3g}-{high:.3g})"


def _format_ratio(ratio: Mapping[str, Any] | None) -> str:
    return "-" if ratio is None else f"{ratio['ratio']:.2f}"


def _format_details(rows: Sequence[Row]) -> list[str]:
    table = [["", "", "samples", "first call", "compiling", "images/s", "peak memory", "GMACs", "share of peak"]]
    for row in rows:
        cells = [cell for cell in row["cells"] if "median" in cell]
        table += [[row["title"] if i == 0 else "", cell["subject"], *_detail_values(cell)] for i, cell in enumerate(cells)]
    lines = _align(table, left=2)
    peaks = {subject: rate for row in rows for subject, rate in row["peak_flops_per_second"].items()}
    if peaks:
        rates = {s: [row["peak_flops_per_second"][s] for row in rows if s in row["peak_flops_per_second"]] for s in peaks}
        said = ", ".join(f"{_format_range(found)} GFLOP/s in {subject.removeprefix('ours-')}" for subject, found in rates.items())
        lines.append(f"Peak: a large matrix product timed in the same rounds, {said} (the median of each row).")
    return lines


def _detail_values(cell: Mapping[str, Any]) -> list[str]:
    macs, peak_bytes, share = cell.get("macs"), cell.get("peak_bytes"), cell.get("share_of_peak")
    return [
        str(cell["n"]),
        format_seconds(cell["first_call"]),
        "-" if cell["compile_seconds"] is None else format_seconds(cell["compile_seconds"]),
        _format_number(cell["images_per_second"]),
        f"{peak_bytes / 1e6:,.0f} MB" if peak_bytes else "-",
        _format_number(macs / 1e9) if macs else "-",
        f"{share:.1%}" if share else "-",
    ]


def _format_range(rates: Sequence[float]) -> str:
    low, high = min(rates) / 1e9, max(rates) / 1e9
    return f"{low:,.0f}" if f"{low:,.0f}" == f"{high:,.0f}" else f"{low:,.0f}-{high:,.0f}"


def _format_number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
