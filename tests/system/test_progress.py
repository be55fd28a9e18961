"""The line of progress: what it says, and that nobody sees it but a terminal."""

import re

import pytest

from drsn_jax.system.progress import Countdown, Progress, draw_bar


@pytest.mark.parametrize(
    ("done", "total", "bar"), [(0, 4, "[....] 0/4"), (2, 4, "[##..] 2/4"), (3, 4, "[###.] 3/4"), (4, 4, "[####] 4/4"), (0, 0, "[....] 0/0")]
)
def test_bar(done, total, bar):
    assert draw_bar(done, total, width=4) == bar


def test_silent_where_it_is_no_terminal(capsys):
    with Countdown(2) as countdown:
        countdown.advance("a")
    Progress()("text")
    assert capsys.readouterr() == ("", "")


def test_a_file_gets_a_line_a_minute(capsys, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    with Countdown(500) as countdown:
        for _ in range(300):
            clock[0] += 1
            countdown.advance("a")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert all("/500" in line and "\x1b" not in line for line in lines)


def test_time_left_is_at_the_pace_of_this_run_alone(capsys, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    with Countdown(1000, done=900) as countdown:
        clock[0] += 40
        countdown.advance("scene")
    shown = capsys.readouterr().err
    assert "900 of 1000 were done by an earlier run" in shown
    assert re.search(r"\[#+\.+\] 901/1,000 1:06:00 left, scene", shown), "99 more at 40 seconds each"
    assert shown.endswith("\r\x1b[K"), "the line is cleared at the end"
