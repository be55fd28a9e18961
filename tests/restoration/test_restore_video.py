"""Videos written by the test, restored by functions whose effect is known: what changes is the picture alone."""

import contextlib
import re
import resource
import signal
import socket
import sys
import threading
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drsn_jax.data.making.video import read_frames
from drsn_jax.restoration.core.restorer import make_restore_fn
from drsn_jax.restoration.restore import restore_files
from drsn_jax.restoration.video import restore as video
from drsn_jax.restoration.video.coding import choose_coding
from drsn_jax.restoration.video.restore import describe, restore_video
from drsn_jax.restoration.video.writer import open_writer
from drsn_jax.system.errors import InputError
from drsn_jax.system.video_files import open_video
from drsn_jax.weights.model import Model

av = pytest.importorskip("av", reason="videos are read by PyAV: pip install 'drsn-jax[video]'")
TAGS = ("color_range", "colorspace", "color_primaries", "color_trc")
GOOD = {"libx264": {"crf": "4"}, "libvpx-vp9": {"crf": "4", "b": "0"}}
TICK = Fraction(1, 600)


@pytest.fixture(scope="module")
def images(photograph):
    """Twelve frames over which the photograph moves."""
    crops = [Image.fromarray(photograph[100:484, 8 * i : 8 * i + 400]) for i in range(12)]
    return [np.asarray(crop.resize((100, 96), Image.Resampling.BOX)) for crop in crops]


def same(image):
    return image


def write_clip(
    path, images, *, codec="libx264", pix_fmt="yuv420p", matrix=1, tags=(1, 1, 1, 1), times=None, audio=None, turn=None, aspect=1, **options
):
    """Write a clip of 25 frames a second, or with frames at `times` in 1/600 s. `tags` are those of TAGS."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=GOOD.get(codec, {}) | options)
        stream.height, stream.width, stream.pix_fmt = *images[0].shape[:2], pix_fmt
        for name, value in zip(TAGS, tags, strict=True):
            setattr(stream.codec_context, name, value)
        if times:
            stream.codec_context.time_base = TICK
        stream.codec_context.sample_aspect_ratio = aspect
        if turn:
            stream.set_display_rotation(turn[0], hflip=turn[1])
        sound = add_sound(container, audio) if audio else None
        for i, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if pix_fmt.startswith(("yuv", "gray")):
                frame = frame.reformat(format=pix_fmt, dst_colorspace=matrix, dst_color_range=tags[0] or 1)
            if times:
                frame.pts, frame.time_base = times[i], TICK
            container.mux(stream.encode(frame))
        if sound:
            write_sound(container, sound)
        container.mux(stream.encode())
    return path


def add_sound(container, codec):
    stream = container.add_stream(codec, rate=48000)
    stream.layout = "mono"
    return stream


def write_sound(container, stream):
    for start in range(0, 24000, 1024):
        tone = (np.sin(2 * np.pi * 440 * np.arange(start, start + 1024) / 48000) * 8000).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(tone[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts = 48000, start
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def read_clip(path):
    """Return the frames as a player shows them, and the stream's tags with pixel format and size."""
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        frames = list(container.decode(video=0))
        tags = {name: getattr(context, name) for name in (*TAGS, "pix_fmt", "width", "height")}
        return frames, tags


def packets(path, kind="audio"):
    with av.open(str(path)) as container:
        return [(packet.pts * packet.time_base, bytes(packet)) for packet in container.demux(**{kind: 0}) if packet.size]


@pytest.mark.parametrize(
    ("suffix", "options", "becomes"),
    [
        (".mp4", {}, {}),
        (".mp4", {"matrix": 5, "tags": (1, 5, 5, 6)}, {}),
        (".mov", {"pix_fmt": "yuvj420p", "tags": (2, 1, 1, 1)}, {}),
        (".m4v", {"pix_fmt": "yuv420p10le", "matrix": 9, "tags": (1, 9, 9, 16)}, {}),
        (".mkv", {"matrix": 5, "tags": (0, 2, 2, 2)}, {}),
        (".mp4", {"pix_fmt": "yuv422p"}, {}),
        # what was written as grey FFmpeg reads with chroma that is neutral
        (".mkv", {"codec": "ffv1", "pix_fmt": "gray", "tags": (0, 2, 2, 2)}, {"color_range": 2, "pix_fmt": "yuvj420p"}),
        (".webm", {"codec": "libvpx-vp9", "odd": True}, {}),
        (".mkv", {"codec": "libvpx-vp9", "odd": True}, {"pix_fmt": "yuv444p"}),
        (".mkv", {"codec": "ffv1", "pix_fmt": "bgr0", "tags": (0, 2, 2, 2)}, {"pix_fmt": "yuv444p", "color_range": 1, "colorspace": 1}),
    ],
    ids=["bt709", "bt601", "full range", "10 bits, HDR", "untagged", "4:2:2", "grey", "odd webm", "odd mkv", "rgb"],
)
def test_a_network_that_changes_nothing_gives_the_same_video(tmp_path, images, suffix, options, becomes):
    options = dict(options)
    if options.pop("odd", False):
        images = [image[:95, :99] for image in images]
    source, target = write_clip(tmp_path / f"a{suffix}", images[:6], **options), tmp_path / "out" / f"a{suffix}"
    report = restore_video(source, target, restore_fn=same)
    assert (report.frames, report.size, report.notes) == (6, images[0].shape[:2], [])
    assert report.flicker is not None
    assert report.flicker.brightness.added == 0
    (before, tags), (after, new_tags) = read_clip(source), read_clip(target)
    assert new_tags == tags | becomes
    for one, other in zip(before, after, strict=True):
        difference = other.to_ndarray(format="rgb24").astype(float) - one.to_ndarray(format="rgb24")
        assert np.abs(difference).mean() < 4  # what coding twice loses
        assert np.abs(difference.mean((0, 1))).max() < 1  # of 255 levels


def test_the_network_is_applied_to_every_frame(tmp_path, images):
    source, target = write_clip(tmp_path / "a.mp4", images), tmp_path / "b.mp4"
    gains = iter([0.5, 1.0] * 6)
    report = restore_video(source, target, restore_fn=lambda image: image * np.float32(next(gains)))
    means = [frame.to_ndarray(format="rgb24").mean() for frame in read_clip(target)[0]]
    before = [frame.to_ndarray(format="rgb24").mean() for frame in read_clip(source)[0]]
    np.testing.assert_allclose(np.array(means) / before, [0.5, 1.0] * 6, atol=0.03)
    assert report.flicker is not None
    assert report.flicker.brightness.added == pytest.approx(0.5 * np.mean(before), rel=0.1)
    assert "100x96  12 frames" in describe(report)
    assert "flicker" in describe(report)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_frames_are_shown_when_they_were_also_at_an_uneven_rate(tmp_path, images, suffix):
    times = [300, 324, 348, 360, 366, 420, 600, 612, 624, 642, 660, 900]
    source, target = write_clip(tmp_path / f"a{suffix}", images, times=times), tmp_path / f"b{suffix}"
    restore_video(source, target, restore_fn=same)
    (before, _), (after, _) = read_clip(source), read_clip(target)
    assert [frame.time for frame in after] == [frame.time for frame in before]
    assert [frame.duration * frame.time_base for frame in after] == [frame.duration * frame.time_base for frame in before]
    assert [frame.time for frame in after] == pytest.approx([time / 600 for time in times], abs=0.001)


def test_time_stamps_that_are_missing_or_go_back_are_mended(tmp_path, images):
    source = write_clip(tmp_path / "a.mp4", images, times=list(range(0, 288, 24)))
    with open_video(source) as (container, stream):
        step = round(TICK * 24 / stream.time_base)
        coding = choose_coding(stream, suffix=".mp4")
        with open_writer(tmp_path / "b.mp4", source=container, stream=stream, coding=coding, matrix=None) as writer:
            for pts in (0, step, None, step, 4 * step):
                writer.write(images[0].astype(np.float32) / 255, pts=pts, duration=step)
            writer.finish()
    assert [frame.time for frame in read_clip(tmp_path / "b.mp4")[0]] == pytest.approx([0, 0.04, 0.08, 0.12, 0.16])


@pytest.mark.parametrize("turn", [(90, False), (180, False), (-90, True)], ids=["90", "180", "mirrored"])
def test_players_turn_it_as_they_did(tmp_path, images, turn):
    source, target = write_clip(tmp_path / "a.mp4", images[:2], turn=turn, aspect=Fraction(4, 3)), tmp_path / "b.mp4"
    restore_video(source, target, restore_fn=same)
    (before, *_), (after, *_) = read_clip(source)[0], read_clip(target)[0]
    assert bytes(after.side_data["DISPLAYMATRIX"]) == bytes(before.side_data["DISPLAYMATRIX"])
    assert after.rotation == before.rotation != 0
    with av.open(str(target)) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(4, 3)


@pytest.mark.parametrize(
    ("suffix", "codec", "audio"),
    [(".mp4", "libx264", "aac"), (".mov", "libx264", "pcm_s16le"), (".webm", "libvpx-vp9", "libopus"), (".mkv", "libx264", "flac")],
)
def test_sound_is_copied_packet_for_packet_at_the_same_times(tmp_path, images, suffix, codec, audio):
    source, target = write_clip(tmp_path / f"a{suffix}", images, codec=codec, audio=audio), tmp_path / f"b{suffix}"
    report = restore_video(source, target, restore_fn=same)
    assert not report.notes
    assert len(packets(source)) > 5
    assert packets(target) == packets(source)
    assert [time for time, _ in packets(target, "video")] == [time for time, _ in packets(source, "video")]


def remux(path, sources, change=lambda written, streams: None):
    """All streams of some files in one, packet for packet; `change` is given it and its streams, by file, before the first packet."""
    with av.open(str(path), "w") as written, contextlib.ExitStack() as stack:
        read = [stack.enter_context(av.open(str(source))) for source in sources]
        streams = [{stream.index: written.add_stream_from_template(stream) for stream in one.streams} for one in read]
        change(written, streams)
        for one, made in zip(read, streams, strict=True):
            for packet in one.demux():
                if packet.size:
                    packet.stream = made[packet.stream_index]
                    written.mux(packet)
    return path


def test_subtitles_are_copied_or_said_to_be_left_out(tmp_path, images):
    (tmp_path / "a.srt").write_text("1\n00:00:00,000 --> 00:00:00,080\nHello\n\n2\n00:00:00,080 --> 00:00:00,120\nthere\n")
    plain = write_clip(tmp_path / "p.mkv", images[:4], audio="flac")
    source, target = remux(tmp_path / "a.mkv", [plain, tmp_path / "a.srt"]), tmp_path / "b.mkv"
    assert not restore_video(source, target, restore_fn=same).notes
    assert packets(target, "subtitles") == packets(source, "subtitles") == [(0, b"Hello"), (Fraction(2, 25), b"there")]
    assert packets(target) == packets(source)
    notes = restore_video(source, tmp_path / "b.mp4", restore_fn=same).notes
    assert notes == ["stream 2, subtitle (srt), is left out: a .mp4 file cannot contain it"]


def test_what_the_new_format_does_not_hold_is_said(tmp_path, images):
    source = write_clip(tmp_path / "a.mp4", images[:3])
    with pytest.raises(InputError, match=r"cannot be written as '\.avi'.*\.mkv"):
        restore_video(source, tmp_path / "b.avi", restore_fn=same)


def decoded(path):
    """Codec, time of the first sample, and the samples in [-1, 1] of the sound of a clip."""
    with av.open(str(path)) as container:
        resampler = av.AudioResampler(format="flt", layout="mono", rate=48000)
        frames = list(container.decode(audio=0))
        parts = [part.to_ndarray()[0] for frame in frames for part in resampler.resample(frame)]
        return container.streams.audio[0].codec_context.name, frames[0].time, np.concatenate(parts)


@pytest.mark.parametrize(
    ("source", "audio", "target", "coded"),
    [
        ("a.mkv", "pcm_s16le", "b.m4v", "aac"),  # whose channels have no names
        ("a.mkv", "flac", "b.mov", "aac"),  # which only the header refuses
        ("a.mkv", "flac", "b.webm", "opus"),
        ("a.avi", "adpcm_ms", "b.mkv", "aac"),
        ("a.mov", "pcm_mulaw", "b.mp4", "aac"),
        ("a.mp4", "aac", "b.webm", "opus"),
    ],
)
def test_sound_that_the_new_format_does_not_take_is_coded_anew_and_said(tmp_path, images, source, audio, target, coded):
    source, target = write_clip(tmp_path / source, images, audio=audio), tmp_path / target
    report = restore_video(source, target, restore_fn=same)
    assert report.frames == len(read_clip(target)[0]) == 12
    assert report.notes[0] == f"stream 1, audio ({audio}), is encoded again ({coded}): a {target.suffix} file cannot contain it"
    assert report.notes[0] in describe(report)
    (_, start, before), (codec, new_start, after) = decoded(source), decoded(target)
    assert (codec, new_start) == (coded, start)
    middle = slice(6000, 18000)
    assert np.corrcoef(before[middle], after[middle])[0, 1] > 0.99, "the same tone at the same time"
    assert abs(len(after) - len(before)) <= 1024


def test_sound_that_cannot_be_coded_anew_is_left_out_and_said(tmp_path, images, monkeypatch):
    source, target = write_clip(tmp_path / "a.mkv", images[:3], audio="flac"), tmp_path / "b.mov"
    monkeypatch.setattr("drsn_jax.restoration.video.writer.add_coded", lambda *_, **__: None)
    report = restore_video(source, target, restore_fn=same)
    assert report.notes == ["stream 1, audio (flac), is left out: a .mov file cannot contain it"]
    assert len(read_clip(target)[0]) == 3


@pytest.mark.parametrize(
    ("suffix", "codec", "audio"),
    [
        (".ts", "libx264", "aac"),
        (".MPG", "mpeg2video", "mp2"),
        (".3gp", "libx264", "aac"),
        (".flv", "flv", "libmp3lame"),
        (".wmv", "wmv2", ""),
    ],
)
def test_containers_that_are_only_read_become_mkv_and_it_is_said(tmp_path, images, suffix, codec, audio):
    source = write_clip(tmp_path / f"a{suffix}", images, codec=codec, audio=audio)
    report = restore_files([source], output=tmp_path / "out", restore_fn=same)
    assert report.restored == [tmp_path / "out" / "a.mkv"], report.failed
    (before, _), (after, _) = read_clip(source), read_clip(report.restored[0])
    assert len(after) == len(before) == 12
    shown = [[frame.time - frames[0].time for frame in frames] for frames in (before, after)]
    np.testing.assert_allclose(*shown, atol=0.0011)  # .mkv counts in milliseconds
    assert not audio or [packet for _, packet in packets(report.restored[0])], "its sound is there"
    said = restore_video(source, tmp_path / "b.mkv", restore_fn=same).notes
    assert said == [f"it is written as .mkv, because {suffix.lower()} files are only read"]


@pytest.mark.parametrize(
    "name", ["2024-08-20T13:28:35Z.mp4", "http:/example.com/v.mp4", "concat:a.mp4", "-v.mp4", "%03d.mp4", "a b\tc'\".mp4"]
)
def test_a_name_is_never_taken_for_an_address(tmp_path, images, monkeypatch, name):
    """Relative, as people type them, and with results of the same name."""
    monkeypatch.chdir(tmp_path)
    source = Path(name)
    source.parent.mkdir(parents=True, exist_ok=True)
    write_clip(tmp_path / "clip.mp4", images[:3], audio="aac").rename(source)
    [result] = restore_files([source], output=Path("out"), restore_fn=same).restored
    assert result.name == source.name
    assert len(read_clip(tmp_path / result)[0]) == 3
    assert [frame.pixels.shape for frame in read_frames(source)] == [images[0].shape] * 3, "prepare video"


def test_what_stands_in_a_file_is_never_opened_as_an_address(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.5)
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        (tmp_path / "v.mp4").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{address}/a.ts\n#EXT-X-ENDLIST\n")
        with pytest.raises(InputError, match="cannot be decoded as a video"):
            restore_video(tmp_path / "v.mp4", tmp_path / "b.mp4", restore_fn=same)
        with pytest.raises(TimeoutError):
            server.accept()


def damage(path):
    """Overwrite the middle of a packet that is no key frame."""
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][5]
        start, size = packet.pos, packet.size
    contents = bytearray(path.read_bytes())
    contents[start + size // 3 : start + size] = b"\x55" * (size - size // 3)
    path.write_bytes(contents)


@pytest.mark.parametrize(
    ("says", "options"),
    [
        ("interlaced", {"x264-params": "tff=1"}),
        ("transparency is dropped", {"codec": "ffv1", "pix_fmt": "bgra", "tags": (0, 2, 2, 2)}),
        (
            r"HDR10 mastering metadata is dropped",
            {"pix_fmt": "yuv420p10le", "matrix": 9, "tags": (1, 9, 9, 16), "x264-params": "cll=1000,400"},
        ),
        (r"^\d frames are damaged in the source", {}),
    ],
)
def test_what_is_wrong_with_a_source_that_can_be_restored_is_said(tmp_path, images, says, options):
    source = write_clip(tmp_path / "a.mkv", images, **options)
    if "damaged" in says:
        damage(source)
    [note] = restore_video(source, tmp_path / "b.mkv", restore_fn=same).notes
    assert re.search(says, note)
    assert len(read_clip(tmp_path / "b.mkv")[0]) == len(images)


def test_title_language_chapters_and_attachments_are_kept(tmp_path, images):
    plain, source, target = write_clip(tmp_path / "p.mkv", images[:3], audio="flac"), tmp_path / "a.mkv", tmp_path / "b.mkv"
    chapter = {"id": 1, "start": 0, "end": 80, "time_base": Fraction(1, 1000), "metadata": {"title": "First"}}

    def describe_more(written, streams):
        written.metadata["title"] = "Holiday"
        written.set_chapters([chapter])
        streams[0][1].metadata["language"] = "fre"
        written.add_attachment("notes.ttf", "application/x-truetype-font", b"abc")

    remux(source, [plain], describe_more)
    assert not restore_video(source, target, restore_fn=same).notes
    with av.open(str(target)) as container:
        assert container.metadata["title"] == "Holiday"
        assert container.streams.audio[0].metadata["language"] == "fre"
        assert [chapter["metadata"] for chapter in container.chapters()] == [{"title": "First"}]
        assert [stream.type for stream in container.streams] == ["video", "audio", "attachment"]


def cut(path, whole, part):
    path.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * part)])
    return path


def broken(tmp_path, images, kind):
    path = tmp_path / "v.mp4"
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("this is no video\n" * 99)
    elif kind == "folder":
        path.mkdir()
    elif kind == "sound":
        with av.open(str(path), "w") as container:
            write_sound(container, add_sound(container, "aac"))
    elif kind == "damaged":
        cut(path, write_clip(tmp_path / "w.mp4", images), 0.6)
    elif kind == "cut":
        return cut(tmp_path / "v.mkv", write_clip(tmp_path / "w.mkv", images, times=list(range(0, 1200, 100))), 0.85)
    elif kind == "sizes":
        return write_two_sizes(tmp_path / "v.mkv", images)
    return path


def write_two_sizes(path, images):
    """Motion JPEG holds a whole image a packet."""
    parts = [
        write_clip(path.with_name(f"{i}.mkv"), part, codec="mjpeg", pix_fmt="yuvj420p")
        for i, part in enumerate((images[:2], [images[0][:64]]))
    ]
    with av.open(str(parts[0])) as first, av.open(str(parts[1])) as second, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(first.streams.video[0], opaque=True)
        for number, packet in enumerate(packet for read in (first, second) for packet in read.demux() if packet.size):
            packet.pts = packet.dts = 40 * number
            packet.stream = stream
            container.mux(packet)
    return path


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("missing", "does not exist"),
        ("empty", "is empty"),
        ("text", "cannot be decoded as a video"),
        ("folder", "is a folder, not a video"),
        ("sound", "no video stream"),
        ("damaged", "cannot be decoded as a video"),
        ("cut", r"is cut short: it ends after \d\.\d of \d\.\d s"),
        ("sizes", "change their size at frame 3"),
    ],
)
def test_what_cannot_be_restored_is_one_line_and_leaves_nothing(tmp_path, images, kind, says):
    source = broken(tmp_path, images, kind)
    with pytest.raises(InputError, match=says) as raised:
        restore_video(source, tmp_path / "out" / "b.mkv", restore_fn=same)
    assert source.name in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.glob("out/*"))


def test_without_pyav_it_says_what_to_install(tmp_path, images, monkeypatch):
    source = write_clip(tmp_path / "a.mp4", images[:2])
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InputError, match=r"pip install 'drsn-jax\[video\]'"):
        restore_video(source, tmp_path / "b.mp4", restore_fn=same)


def test_what_is_there_stays_unless_it_may_be_replaced(tmp_path, images):
    source, target = write_clip(tmp_path / "a.mp4", images[:2]), tmp_path / "b.mp4"
    target.write_text("mine")
    with pytest.raises(InputError, match="already exists"):
        restore_video(source, target, restore_fn=same)
    assert target.read_text() == "mine"
    restore_video(source, target, restore_fn=same, overwrite=True)
    assert len(read_clip(target)[0]) == 2


@pytest.fixture
def interruptible():
    """Ctrl-C as a terminal's processes have it: those that a script starts in the background ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_interrupting_leaves_nothing_and_what_was_there(tmp_path, images):
    source, target = write_clip(tmp_path / "a.mp4", images, audio="aac"), tmp_path / "out" / "b.mp4"
    target.parent.mkdir()
    target.write_text("mine")
    calls, threads = [], threading.active_count()

    def interrupted(image):
        calls.append(image)
        if len(calls) == 4:
            assert len(list(target.parent.iterdir())) == 2, "a temporary file is being written"
            signal.raise_signal(signal.SIGINT)
        return image

    with pytest.raises(KeyboardInterrupt):
        restore_video(source, target, restore_fn=interrupted, overwrite=True)
    assert [path.name for path in target.parent.iterdir()] == ["b.mp4"]
    assert target.read_text() == "mine"
    assert len(calls) == 4
    assert threading.active_count() == threads


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, images):
    source = write_clip(tmp_path / "a.mkv", images, audio="flac")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, limits[1]))
    try:
        with pytest.raises(InputError, match=r"cannot be written \(File too large\).*free some space"):
            restore_video(source, tmp_path / "out" / "b.mkv", restore_fn=same)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.glob("out/*"))


def test_few_frames_are_held_at_any_time(tmp_path, images, monkeypatch):
    source = write_clip(tmp_path / "a.mp4", images)
    decoded, ahead, decode = [], [], video.decode_frame
    monkeypatch.setattr(video, "decode_frame", lambda frame, coding: decoded.append(1) or decode(frame, coding))

    def restore(image):
        ahead.append(len(decoded) - len(ahead))
        return image

    restore_video(source, tmp_path / "b.mp4", restore_fn=restore)
    assert len(ahead) == 12
    assert max(ahead) <= 2  # the one that is restored, and the next


def test_a_folder_of_photographs_and_videos(tmp_path, images, capsys):
    folder, output = tmp_path / "in", tmp_path / "out"
    (folder / "trip").mkdir(parents=True)
    Image.fromarray(images[0]).save(folder / "a.png")
    write_clip(folder / "trip" / "B.MP4", images[:4])
    write_clip(folder / "c.avi", images[:3], codec="mjpeg", pix_fmt="yuvj420p")
    (folder / "d.webm").write_text("no video")
    model = Model(predict_fn=lambda image: -image, stride=4, config={}, info={})
    report = restore_files([folder], output=output, restore_fn=make_restore_fn(model))
    assert sorted(path.relative_to(output).as_posix() for path in report.restored) == ["a.png", "c.mkv", "trip/B.MP4"]
    assert sorted(path.relative_to(output).as_posix() for path in output.rglob("*.*")) == ["a.png", "c.mkv", "trip/B.MP4"]
    assert [path.name for path, _ in report.failed] == ["d.webm"]
    for source, target in (("trip/B.MP4", "trip/B.MP4"), ("c.avi", "c.mkv")):
        before, after = (read_clip(path)[0] for path in (folder / source, output / target))
        assert len(after) == len(before)
        negative = 255 - before[-1].to_ndarray(format="rgb24").mean()
        assert after[-1].to_ndarray(format="rgb24").mean() == pytest.approx(negative, abs=3)
    said = capsys.readouterr().err
    assert "[4/4]" in said
    assert "B.MP4'  100x96  4 frames" in said
    again = restore_files([folder / "c.avi"], output=output, restore_fn=make_restore_fn(model))
    assert "already exists" in again.failed[0][1]
    named = restore_files([folder / "c.avi"], output=tmp_path / "named.mp4", restore_fn=make_restore_fn(model))
    assert named.restored == [tmp_path / "named.mp4"]


def test_options_of_photographs_are_said_to_be_none_of_videos(tmp_path, images, capsys):
    write_clip(tmp_path / "c.mp4", images[:2])
    report = restore_files([tmp_path / "c.mp4"], output=tmp_path / "out", restore_fn=same, panel=True, output_format="png")
    assert report.restored == [tmp_path / "out" / "c.mp4"]
    assert "For photographs only, so not applied to videos: --panel and --output-format.\n" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["c.mp4"]


def test_a_video_and_its_copy_in_another_format_are_not_written_over_each_other(tmp_path, images):
    for name in ("c.avi", "c.mkv"):
        write_clip(tmp_path / name, images[:2], codec="mjpeg", pix_fmt="yuvj420p")
    with pytest.raises(InputError, match=r"would both be written to .*c\.mkv"):
        restore_files([tmp_path], output=tmp_path / "out", restore_fn=same)
