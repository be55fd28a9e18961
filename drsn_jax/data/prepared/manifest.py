"""The manifest of a stored data set, and the check of a source against it."""

import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from drsn_jax import __version__
from drsn_jax.data.benchmarks.survey import Example, Survey
from drsn_jax.system.errors import InputError


def describe(survey: Survey) -> dict[str, Any]:
    """Return the metadata of a set that is known before its files are read. It contains no path of this machine."""
    parts = {}
    for name, part in survey.parts.items():
        counts = zip(("scenes", "examples"), part.found[:2], part.expected[:2], strict=True)
        parts[name] = {key: {"found": found, "expected": expected} for key, found, expected in counts}
    return {
        "kind": survey.kind,
        "title": survey.title,
        "source": survey.source,
        "complete": not survey.problems,
        "problems": survey.problems,
        "parts": parts,
        "drsn_jax": __version__,
        "splits": {},
        **survey.facts,
    }


def cut_into_shards(examples: Sequence[Example], *, limit: int) -> list[list[Example]]:
    """Split the examples, in order, into shards of at most `limit` bytes; a larger example has a shard of its own."""
    shards, num_bytes = [[]], 0
    for example in examples:
        if shards[-1] and num_bytes + example.num_bytes > limit:
            shards.append([])
            num_bytes = 0
        shards[-1].append(example)
        num_bytes += example.num_bytes
    return shards


def file_checks(example: Example, contents: Mapping[str, bytes] | None = None) -> list[list[int]]:
    """Return [bytes, CRC-32] of each file of an example, sides in alphabetical order; of `contents` if already read.

    The archive's directory has the checksums of its files, so these are not read. The checksum of an unreadable file is -1.
    """
    checks = []
    for side, file in sorted(example.files.items()):
        try:
            checks.append([file.num_bytes, file.crc32() if contents is None else zlib.crc32(contents[side])])
        except InputError:
            checks.append([file.num_bytes, -1])
    return checks


def check_same(
    there: Path, metadata: Mapping[str, Any], survey: Survey, *, report: Callable[[int, int], object] = lambda done, total: None
) -> None:
    """Raise `InputError` unless `survey` has the splits, names and files that are stored in the folder `there`.

    Files are equal if sizes and CRC-32 agree. This detects any accidental difference, but no forgery. After all sizes were compared, the
    files of a folder are read (seconds per GB); `report` is called with the number of checked examples.
    """
    stored = metadata["splits"]
    for split in [name for name in {**stored, **survey.splits} if survey.splits.get(name) or name in stored]:
        examples, checks = survey.splits.get(split, ()), stored.get(split, {"checks": {}}).get("checks")
        known = len(stored[split]["names"]) if split in stored else 0
        if checks is None:
            raise _other(there, f"{split}: there are no stored checksums")
        if {example.name for example in examples} != checks.keys():
            raise _other(there, f"{split}: {known:,}, here {len(examples):,}")
        for example in examples:
            if [file.num_bytes for _, file in sorted(example.files.items())] != [size for size, _ in checks[example.name]]:
                raise _other(there, f"{split}: {example.name} has a different size")
    for split, examples in survey.splits.items():
        with ThreadPoolExecutor(8) as pool:
            found = pool.map(file_checks, examples)
            for done, (example, checks) in enumerate(zip(examples, found, strict=True), start=1):
                if checks != stored[split]["checks"][example.name]:
                    pool.shutdown(cancel_futures=True)
                    raise _other(there, f"{split}: {example.name} differs")
                report(done, len(examples))


def _other(there: Path, what: str) -> InputError:
    return InputError(f"{there} contains different examples ({what}); replace it with --overwrite, or choose another --data-dir")
