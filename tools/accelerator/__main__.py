"""A survey of an accelerator in a limited time: `python tools/accelerator --minutes=15 --output=DIR`.

The parts run in the order of their value. Each has its own process, so that a part that fails or hangs does not affect the others. After
each part DIR/results.json and DIR/table.md are rewritten. The table also names each part that no longer fits into the time. Needs jax,
flax, optax, orbax and their dependencies, but no Keras, TensorFlow, clu or data.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # a checkout that is not installed
sys.path.insert(0, str(Path(__file__).parents[1]))

from accelerator.parts import PARTS, Part, Plan, Result
from drsn_jax.system.files import write_atomically

CHECKOUT = Path(__file__).parents[2]
Run = Callable[[Part, Plan], Result]


def survey(parts: Sequence[Part], *, plan: Plan, minutes: float, run_fn: Run, clock: Callable[[], float] = time.monotonic) -> list[Result]:
    """Run the parts until the time is over, and write the results so far after each. Returns all results."""
    end, results = clock() + 60 * minutes, []
    for part in parts:
        left = end - clock()
        if left < part.least_seconds and not plan.tiny:
            result = Result(part.name, [], f"skipped: {left:.0f} s remained, and it needs at least {part.least_seconds}")
        else:
            result = run_fn(part, plan._replace(seconds=min(part.most_seconds, left)))
        results.append(result)
        write_atomically(plan.folder / "results.json", (json.dumps([result._asdict() for result in results], indent=1) + "\n").encode())
        write_atomically(plan.folder / "table.md", format_table(results).encode())
        sys.stderr.write(f"accelerator: {part.name}: {result.problem or 'done'}; {(end - clock()) / 60:.1f} minutes left\n")
    return results


def run_apart(part: Part, plan: Plan) -> Result:
    """Run one part in its own process, which is killed when its time is over."""
    arguments = [f"--part={part.name}", f"--seconds={plan.seconds}", f"--output={plan.folder}", *(["--tiny"] if plan.tiny else [])]
    environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", **os.environ}  # the processes of the bench share the device with this one
    pythonpath = os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH")]))
    argv, pipes = [sys.executable, str(Path(__file__).parent), *arguments], {"stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(argv, env=environment | {"PYTHONPATH": pythonpath}, **pipes) as process:
        try:
            out, _ = process.communicate(timeout=plan.seconds + part.grace_seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            return Result(part.name, [], f"ended after {plan.seconds + part.grace_seconds:.0f} s without a result")
    if process.returncode:
        return Result(part.name, [], f"failed with code {process.returncode}; see its messages on stderr")
    return Result(part.name, json.loads(out.splitlines()[-1]), "")


def format_table(results: Sequence[Result]) -> str:
    """Return the rows of all parts as a Markdown table."""
    lines = ["| part | what | figure | remark |", "|---|---|---|---|"]
    for result in results:
        rows = result.rows or [{"what": "", "figure": "", "remark": result.problem}]
        lines += [f"| {result.part} | {row['what']} | {row['figure']} | {row['remark']} |" for row in rows]
    return "\n".join([*lines, ""])


def main(argv: Sequence[str] | None = None) -> int:
    """Survey the device. The exit code is 1 if a part failed."""
    parser = argparse.ArgumentParser(prog="accelerator", description=__doc__, allow_abbrev=False)
    parser.add_argument("--minutes", type=float, default=15.0, metavar="N", help="total time, 8 to 60 (default 15)")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for results.json, table.md and the trace")
    parser.add_argument("--tiny", action="store_true", help="a dry run: small networks and few samples, on any device")
    parser.add_argument("--part", choices=[part.name for part in PARTS], help="only this part, with its rows as a line of JSON")
    parser.add_argument("--seconds", type=float, default=60.0, metavar="S", help="time for --part (default 60)")
    arguments = parser.parse_args(argv)
    if not 8 <= arguments.minutes <= 60:
        parser.error(f"--minutes={arguments.minutes:g} is outside 8 to 60")
    arguments.output.mkdir(parents=True, exist_ok=True)
    plan = Plan(arguments.output.absolute(), seconds=arguments.seconds, tiny=arguments.tiny)
    if arguments.part:
        [part] = [part for part in PARTS if part.name == arguments.part]
        rows: list[dict[str, Any]] = part.run_fn(plan)
        sys.stdout.write(f"{json.dumps(rows)}\n")
        return 0
    results = survey(PARTS, plan=plan, minutes=arguments.minutes, run_fn=run_apart)
    sys.stdout.write(format_table(results))
    return int(any(result.problem and not result.problem.startswith("skipped") for result in results))


if __name__ == "__main__":
    sys.exit(main())
