"""Pairs from videos: the windows of each source and their examples, determined by the values of `VideoPairs`."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from drsn_jax.data.making.averaging import Response, Window, average_windows, gamma_response
from drsn_jax.data.making.pair_writer import Example, Line
from drsn_jax.data.making.video import Frame, Source, identify, read_frames
from drsn_jax.data.making.windows import Choice, choose_windows, measure_motion
from drsn_jax.data.pairs.folders import spread
from drsn_jax.system.errors import InputError


class VideoPairs(NamedTuple):
    """The settings: the arguments of `choose_windows`, and `max_pairs`, the number of pairs to keep, spread over all sources."""

    sources: tuple[Source, ...]
    frames: tuple[int, int] = (7, 13)
    stride: int | None = None
    response: Response = gamma_response(2.2)
    min_motion: float = 2.0
    cut_threshold: float = 3.0
    exclude: tuple[tuple[int, int], ...] = ()
    max_pairs: int | None = None
    seed: int = 0

    def check(self) -> None:
        """Raise `InputError` for invalid values."""
        low, high = self.frames
        if not 2 <= low <= high:
            raise InputError(f"--frames={low}-{high} is not a range of frames to average; use 2 or more, such as 7-13 or 9")
        if self.stride is not None and self.stride < 1:
            raise InputError(f"--stride={self.stride} does not advance; use 1 or more, or auto (windows that do not overlap)")
        if self.max_pairs is not None and self.max_pairs < 1:
            raise InputError(f"--max-pairs={self.max_pairs} makes no pair; use 1 or more, or omit it")
        if not 0 <= self.min_motion < float("inf"):
            raise InputError(f"--min-motion={self.min_motion} is not a length; use 0 (also keeps still parts) or more pixels")
        if not self.cut_threshold > 1:
            raise InputError(f"--cut-threshold={self.cut_threshold} would treat any motion as a cut; use more than 1, such as 3")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"--seed={self.seed} is out of range; use 0 to {2**32 - 1}")
        for first, last in self.exclude:
            if not 1 <= first <= last:
                raise InputError(f"--exclude={first}-{last} is not a range of frames; the first frame is 1, and both ends are excluded")


def plan_video_pairs(making: VideoPairs, report: Callable[[str], None]) -> tuple[list[Line], list[str]]:
    """Read all frames of all sources once. Returns the lines of the pairs, and a note per source about skipped parts.

    Raises `InputError` with the reason if no source has a window, if an excluded range lies beyond all frames, and for
    unreadable sources.
    """
    lines, notes, troubles, longest = [], [], [], 0
    for source in making.sources:
        motion = measure_motion(_counted(read_frames(source.path), source, report), lag=min(3, making.frames[0] - 1))
        total, longest = len(motion.levels), max(longest, len(motion.levels))
        choice = choose_windows(
            motion,
            frames=making.frames,
            stride=making.stride,
            cut_threshold=making.cut_threshold,
            min_motion=making.min_motion,
            exclude=making.exclude,
            seed=making.seed,
            scene=source.scene,
        )
        lines += [_to_line(source, window) for window in choice.windows]
        cuts = f", cuts before frames {', '.join(str(cut + 1) for cut in choice.cuts[:9])}" if choice.cuts else ""
        notes.append(f"{source.scene}: {total} frames, {len(choice.windows)} windows, {choice.static} static{cuts}")
        troubles += [] if choice.windows else [_trouble(source, making, choice, total)]
    for first, last in making.exclude:
        if first > longest:
            raise InputError(
                f"--exclude={first}-{last} lies beyond the last frame ({longest}); frames are counted from 1 in the order shown"
            )
    if not lines:
        raise InputError(troubles[0])
    return lines if making.max_pairs is None else spread(lines, making.max_pairs), notes


def make_video_pairs(lines: Sequence[Line], making: VideoPairs) -> Iterator[Example]:
    """Make (line, blurred, sharp) for lines of the plan in its order. Each source is read once, from the first needed frame."""
    paths = {source.scene: source.path for source in making.sources}
    for scene, group in groupby(lines, key=lambda line: line["scene"]):
        by_window = {Window(line["first_frame"] - 1, line["frames"], line["motion"], line["pts"]): line for line in group}
        first = min(by_window)
        frames = read_frames(paths[scene], first=first.first, pts=first.pts)
        for window, blurred, sharp in average_windows(frames, list(by_window), response=making.response, first=first.first):
            yield by_window[window], blurred, sharp


def describe(making: VideoPairs) -> dict[str, Any]:
    """Return the settings that determine the pairs, for `drsn_jax.data.making.pair_writer.make_pairs`; reads the sources' sizes."""
    values = making._asdict()
    values["sources"] = [identify(source) for source in making.sources]
    values["response"] = hashlib.sha256(making.response.light.tobytes() + making.response.edges.tobytes()).hexdigest()[:16]
    return {"made_by": "drsn-jax prepare video", **values}


def _counted(frames: Iterator[Frame], source: Source, report: Callable[[str], None]) -> Iterator[Frame]:
    for number, frame in enumerate(frames, start=1):
        report(f"{source.scene}: measuring the motion, frame {number}")
        yield frame


def _to_line(source: Source, window: Window) -> Line:
    number = f"{window.first + 1:06d}"  # the first frame, which no other window contains
    line = {"name": f"{source.scene}/{number}", "scene": source.scene, "source": source.path.name, "first_frame": window.first + 1}
    line |= {"frames": window.n, "sharp_frame": window.sharp + 1, "motion": window.motion, "pts": window.pts}
    return line | {side: f"{source.scene}/{folder}/{number}.png" for side, folder in (("blurred", "blur"), ("sharp", "sharp"))}


def _trouble(source: Source, making: VideoPairs, choice: Choice, total: int) -> str:
    low = making.frames[0]
    if total < 2:
        return f"{source.path} has a single frame, nothing to average; give a video, or a folder of its frames"
    if total < low:
        return f"{source.path} has {total} frames, fewer than the {low} to average; give a longer video, or fewer (--frames=2-{total})"
    if choice.static:
        return (
            f"{source.path} does not move: the most motion in {low} to {making.frames[1]} frames is {choice.most_static:.2f} pixels,"
            f" at least {making.min_motion:g} are needed; give a video with motion, or a lower --min-motion"
        )
    return (
        f"{source.path} has no {low} frames in a row between its {len(choice.cuts)} cuts, missing frames and --exclude;"
        " use smaller --frames, a higher --cut-threshold, or exclude less"
    )
