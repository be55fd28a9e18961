"""Frames of videos written by the test, lossless, and of folders; and what is wrong with others."""

import sys

import numpy as np
import pytest
from PIL import Image

from drsn_jax.data.making.video import identify, list_frames, open_sources, read_frames
from drsn_jax.system.errors import InputError

av = pytest.importorskip("av", reason="videos are read by PyAV: pip install 'drsn-jax[video]'")


def write_video(path, images, *, codec="ffv1", pix_fmt="bgr0", rotation=None, gop=5, **options):
    """ffv1 in .mkv keeps every value; other codecs are for what else there is."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={k: str(v) for k, v in options.items()})
        stream.height, stream.width, stream.pix_fmt = *images[0].shape[:2], pix_fmt
        stream.gop_size = gop
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_frames(folder, images, names=None):
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        # Compressed little: a quarter of the time.
        Image.fromarray(image).save(folder / (names[i] if names else f"{i + 1:06d}.png"), compress_level=1)
    return folder


@pytest.fixture
def images(rng):
    return list(rng.integers(0, 256, (23, 32, 48, 3), np.uint8))


def pixels(path, **options):
    return [frame.pixels for frame in read_frames(path, **options)]


def same(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_video_gives_the_frames_that_were_written(tmp_path, images):
    same(pixels(write_video(tmp_path / "v.mkv", images)), images)


def test_a_folder_gives_its_frames_in_the_order_of_their_numbers(tmp_path, images):
    names = [f"shot{i}.png" for i in range(1, 24)]  # shot10 after shot9
    folder = write_frames(tmp_path / "f", images, names)
    (folder / ".hidden.png").write_bytes(b"no image")
    (folder / "notes.txt").write_text("no image")
    (folder / "below").mkdir()
    same(pixels(folder), images)
    same(pixels(folder, first=9), images[9:])
    assert [path.name for path in list_frames(folder)][8:11] == ["shot9.png", "shot10.png", "shot11.png"]


@pytest.mark.parametrize(("codec", "suffix", "options"), [("ffv1", "mkv", {}), ("mpeg4", "mp4", {"bf": 2}), ("libx264", "mp4", {"bf": 3})])
def test_reading_from_a_time_stamp_is_reading_from_the_start(tmp_path, images, codec, suffix, options):
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    path = write_video(tmp_path / f"v.{suffix}", images, codec=codec, pix_fmt="bgr0" if codec == "ffv1" else "yuv420p", **options)
    frames = list(read_frames(path))
    assert len(frames) == 23
    for first in (0, 1, 4, 7, 15, 22):
        assert frames[first].pts is not None
        same(pixels(path, first=first, pts=frames[first].pts), [frame.pixels for frame in frames[first:]])
        same(pixels(path, first=first), [frame.pixels for frame in frames[first:]])


def test_seeking_decodes_little_and_a_wrong_stamp_is_survived(tmp_path, images, monkeypatch):
    path = write_video(tmp_path / "v.mkv", images)
    frames = list(read_frames(path))
    same(pixels(path, first=9, pts=frames[9].pts + 1), images[9:])  # no frame has it: counted from the start instead
    from drsn_jax.data.making import video

    decoded = []
    plain = video._to_frame
    monkeypatch.setattr(video, "_to_frame", lambda frame: decoded.append(1) or plain(frame))
    next(read_frames(path, first=20, pts=frames[20].pts))
    assert len(decoded) == 1


def test_a_clip_filmed_on_its_side_stands_up(tmp_path, images):
    upright = [np.full((32, 48, 3), 30, np.uint8) for _ in range(3)]
    for image in upright:
        image[:, :24] = 200  # the left half is bright
    for degrees, place in ((90, "bottom"), (-90, "top"), (180, "right")):
        path = write_video(tmp_path / f"{degrees}.mov", upright, codec="mpeg4", pix_fmt="yuv420p", rotation=degrees)
        frame = pixels(path)[0].mean(-1)
        bright = {"bottom": frame[-10:], "top": frame[:10], "right": frame[:, -10:]}[place]
        assert frame.shape == ((32, 48) if place == "right" else (48, 32))
        assert bright.mean() > 150, f"{degrees} degrees counterclockwise"


def test_missing_numbers_are_gaps(tmp_path, images):
    names = [f"{i:04d}.png" for i in (1, 2, 3, 4, 9, 10, 11, 12)]
    folder = write_frames(tmp_path / "f", images[:8], names)
    assert [frame.gap for frame in read_frames(folder)] == [False] * 4 + [True] + [False] * 3
    assert [frame.gap for frame in read_frames(folder, first=4)] == [True] + [False] * 3
    every_other = write_frames(tmp_path / "g", images[:6], [f"{i:04d}.png" for i in range(0, 12, 2)])
    assert not any(frame.gap for frame in read_frames(every_other))
    assert not any(frame.gap for frame in read_frames(write_frames(tmp_path / "h", images[:3], ["a.png", "b.png", "d.png"])))


def test_scenes_are_named_after_their_sources_and_never_mixed_up(tmp_path, images):
    paths = [write_frames(tmp_path / folder / "clip", images[:1]) for folder in ("one", "two")]
    paths += [write_frames(tmp_path / name, images[:1]) for name in ("sharp", "train", ".hidden")]
    paths.append(write_video(tmp_path / "clip.mkv", images[:2]))
    assert [source.scene for source in open_sources(paths)] == ["clip", "clip-2", "scene-sharp", "scene-train", "hidden", "clip-3"]


def test_a_source_is_known_by_its_size(tmp_path, images):
    folder = write_frames(tmp_path / "clip", images[:3])
    before = identify(*open_sources([folder]))
    assert before == {"scene": "clip", "files": 3, "bytes": sum(p.stat().st_size for p in folder.iterdir())}
    write_frames(folder, images[:4])
    assert identify(*open_sources([folder])) != before


def broken(tmp_path, images, kind):
    if kind == "folder":
        (tmp_path / "v").mkdir()
        return tmp_path / "v"
    path = tmp_path / "v.mkv"
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("this is no video\n" * 99)
    elif kind == "damaged":
        write_video(path, images)
        path.write_bytes(path.read_bytes()[:200])
    elif kind == "audio":
        with av.open(str(tmp_path / "v.wav"), "w") as container:
            stream = container.add_stream("pcm_s16le", rate=8000)
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
            sound.sample_rate = 8000
            container.mux(stream.encode(sound))
            container.mux(stream.encode())
        return tmp_path / "v.wav"
    return path


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("folder", "holds no images"),
        ("empty", "is empty"),
        ("text", "cannot be decoded"),
        ("damaged", r"cannot be decoded|no frame|no video stream"),
        ("audio", "no video stream"),
    ],
)
def test_what_is_no_video_is_said_in_one_line(tmp_path, images, kind, says):
    path = broken(tmp_path, images, kind)
    with pytest.raises(InputError, match=says) as raised:
        list(read_frames(path))
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_frames_of_different_sizes_and_unreadable_ones(tmp_path, images):
    folder = write_frames(tmp_path / "f", [images[0], images[1], images[2][:30]])
    with pytest.raises(InputError, match="48x32 and 48x30 \\(frame 3\\)"):
        list(read_frames(folder))
    (folder / "000003.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"000003\.png' is not an image"):
        list(read_frames(folder))


def test_missing_sources_and_missing_pyav(tmp_path, images, monkeypatch):
    with pytest.raises(InputError, match="does not exist"):
        open_sources([tmp_path / "no.mp4"])
    path = write_video(tmp_path / "v.mkv", images[:2])
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InputError, match=r"pip install 'drsn-jax\[video\]'"):
        list(read_frames(path))
