"""The line of progress: what it says, and that nobody sees it but a terminal."""

import re

import pytest

from drsn_jax.progress import Countdown, Progress, draw_bar


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
