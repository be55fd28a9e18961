"""Progress of a long command in one line on stderr."""

import sys
import time


def draw_bar(done: int, total: int, *, width: int = 20) -> str:
    """Draw `[########............] 12/30`."""
    filled = width * done // max(total, 1)
    return f"[{'#' * filled}{'.' * (width - filled)}] {done:,}/{total:,}"


_EVERY_SECONDS = 60.0  # if stderr is a file: one line a minute


class Progress:
    """A line that is rewritten at most ten times a second. If stderr is no terminal, a new line a minute."""

    def __init__(self):
        """Show nothing yet."""
        self._shows = sys.stderr.isatty()
        self._last = 0.0 if self._shows else time.monotonic()

    def __call__(self, text: str) -> None:
        """Replace the line by `text`."""
        if time.monotonic() - self._last > (0.1 if self._shows else _EVERY_SECONDS):
            self._last = time.monotonic()
            self._write(f"\r\x1b[K{text}" if self._shows else f"{text}\n")

    def close(self) -> None:
        """Clear the line."""
        if self._shows:
            self._write("\r\x1b[K")

    @staticmethod
    def _write(text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()


class Countdown:
    """A counter with the remaining time at the mean pace. `done` items of an earlier run do not count for the pace."""

    def __init__(self, total: int, *, done: int = 0):
        """Show nothing yet."""
        self._total, self._done, self._before = total, done, done
        self._progress, self._start = Progress(), time.monotonic()

    def __enter__(self) -> "Countdown":
        if self._before:
            sys.stderr.write(f"{self._before} of {self._total} were done by an earlier run; resuming.\n")
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.close()

    def advance(self, text: str) -> None:
        """Count one more item as done."""
        self._done += 1
        pace = (time.monotonic() - self._start) / (self._done - self._before)
        left = _duration(pace * (self._total - self._done))
        self._progress(f"{draw_bar(self._done, self._total)} {left} left, {text}")


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
