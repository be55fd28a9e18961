"""The survey of an accelerator: its order and time, its table, and a dry run on this machine."""

import json

import pytest

from accelerator import parity
from accelerator.__main__ import format_table, main, survey
from accelerator.parity import Check, compare_all
from accelerator.parts import PARTS, Part, Plan, Result, row


def test_parts_run_in_order_while_time_lasts_and_results_are_written_after_each(tmp_path):
    now, started = [0.0], []
    parts = [Part(name, lambda plan: [], least, 100) for name, least in (("a", 60), ("b", 60), ("c", 300), ("d", 60))]

    def run(part, plan):
        started.append((part.name, plan.seconds))
        stored = json.loads((tmp_path / "results.json").read_text()) if started[:-1] else []
        assert len(stored) == parts.index(part), "the parts before it, run or skipped"
        now[0] += 150
        return Result(part.name, [row("what", "1 ms")], "")

    results = survey(parts, plan=Plan(tmp_path), minutes=8, run_fn=run, clock=lambda: now[0])
    assert started == [("a", 100), ("b", 100), ("d", 100)]
    assert [result.problem for result in results] == ["", "", "skipped: 180 s remained, and it needs at least 300", ""]
    assert "| c |  |  | skipped: 180 s remained" in (tmp_path / "table.md").read_text()
    assert format_table(results).splitlines()[2] == "| a | what | 1 ms |  |"


def test_the_most_valuable_parts_come_first_and_fit_into_eight_minutes():
    assert [part.name for part in PARTS] == ["device", "parity", "speed", "training", "memory", "best-batch", "trace"]
    assert sum(part.least_seconds for part in PARTS[:4]) < 8 * 60


def test_parity_holds_between_this_cpu_and_itself_and_a_difference_shows(monkeypatch):
    assert all(check.holds for check in compare_all(tiny=True))
    assert not Check("", float("nan"), 1.0).holds
    on = parity.on
    calls = []
    monkeypatch.setattr(parity, "on", lambda *arguments: calls.append(1) or parity.jax.tree.map(lambda x: x * len(calls), on(*arguments)))
    assert not any(check.holds for check in parity._compare_data(*parity.jax.devices()[:2], side=32))


@pytest.mark.parametrize("minutes", ["7", "61"])
def test_minutes_outside_8_to_60_are_refused(minutes, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([f"--minutes={minutes}", f"--output={tmp_path}"])
    assert f"--minutes={minutes} is outside 8 to 60" in capsys.readouterr().err


@pytest.mark.soak
def test_a_dry_run_on_this_machine(tmp_path, monkeypatch):
    for name in ("XLA_FLAGS", "NPROC", "JAX_NUM_CPU_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
    assert main(["--minutes=8", "--tiny", f"--output={tmp_path}"]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert [result["part"] for result in results] == [part.name for part in PARTS]
    assert all(result["rows"] for result in results)
    assert "waiting" in (tmp_path / "table.md").read_text()
