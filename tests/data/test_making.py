"""`prepare video` and `prepare photos` as a user runs them: what they write, resuming after kill -9, refusals, mistakes."""

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image
from test_averaging import panning, texture
from test_video import write_frames, write_video

from drsn_jax.cli.prepare_pairs import declare_photos, declare_video
from drsn_jax.data.images.rgb import read_rgb
from drsn_jax.data.making.pair_writer import make_pairs
from drsn_jax.data.pairs.folders import check_pairs, find_pairs
from drsn_jax.system.errors import InputError
from drsn_jax.system.locks import lock_folder

# Stops for good after so many images, having said so by a file.
HANGING = """
import sys, time
from pathlib import Path
import test_making
from drsn_jax.data.making import pair_writer
count, written, write = int(sys.argv[1]), [], pair_writer.write_atomically

def hanging(path, content):
    if path.suffix == ".png":
        written.append(path)
        if len(written) > count:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_name(f".drsn-1{path.suffix}").write_bytes(content[:9])
            Path(sys.argv[2]).touch()
            time.sleep(1000)
    write(path, content)

pair_writer.write_atomically = hanging
test_making.prepare(*sys.argv[3:])
"""


def prepare(*argv) -> int:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    subparsers = parser.add_subparsers()
    declare_video(subparsers)
    declare_photos(subparsers)
    arguments = parser.parse_args([str(argument) for argument in argv])
    return arguments.prepare_fn(arguments)


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def lines(folder):
    return [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]


@pytest.fixture
def clip(tmp_path, rng):
    """75 frames that move, a cut, 25 that do not."""
    picture, other = texture(rng), texture(rng)
    images = panning(picture, 45, width=120) + panning(other, 30, width=120) + [other[:, 58:178]] * 25
    return write_frames(tmp_path / "clip", images), images


@pytest.fixture
def photos(tmp_path, photograph):
    folder = tiny.write_photos(tmp_path / "photos", photograph)
    (folder / "more").mkdir()
    (folder / "4.png").rename(folder / "more" / "4.png")
    return folder


def test_pairs_of_a_clip(tmp_path, clip, capsys):
    folder, images = clip
    assert prepare("video", "--source", folder, f"--output={tmp_path / 'out'}", "--exclude=10-12,60") == 0
    printed = capsys.readouterr()
    assert "100 frames" in printed.out
    assert "cuts before frames 46" in printed.out
    assert printed.err == ""
    plan = lines(tmp_path / "out")
    pairs = find_pairs(tmp_path / "out")
    check_pairs(pairs)
    assert [pair.name for pair in pairs] == [line["name"] for line in plan]
    assert len(pairs) >= 4
    for pair, line in zip(pairs, plan, strict=True):
        used = range(line["first_frame"], line["first_frame"] + line["frames"])  # 1 is the first
        assert not {10, 11, 12, 60} & set(used)
        assert not (45 in used and 46 in used)
        assert used[0] < 76, "a still window"
        light = [images[frame - 1].astype(np.float64) ** 2.2 for frame in used]
        assert np.abs(read_rgb(pair.blurred) - np.mean(light, axis=0) ** (1 / 2.2)).max() <= 0.5 + 1e-9
        np.testing.assert_array_equal(read_rgb(pair.sharp), images[line["sharp_frame"] - 1])
        assert line["sharp_frame"] == line["first_frame"] + line["frames"] // 2
        assert line["source"] == "clip"
        assert line["motion"] > 2


def test_a_video_file_gives_the_pairs_of_its_frames(tmp_path, clip):
    folder, images = clip
    assert prepare("video", "--source", folder, f"--output={tmp_path / 'one'}") == 0
    assert prepare("video", "--source", write_video(tmp_path / "clip.mkv", images), f"--output={tmp_path / 'two'}") == 0
    one, two = ({k: v for k, v in contents(tmp_path / name).items() if k.endswith(".png")} for name in ("one", "two"))
    assert one == two


def test_several_sources_are_several_scenes_and_max_pairs_is_spread_over_them(tmp_path, clip, rng):
    folder, images = clip
    second = write_frames(tmp_path / "second", panning(texture(rng), 40))
    still = write_frames(tmp_path / "still", [images[0]] * 20)
    assert prepare("video", "--source", folder, second, f"--source={still}", f"--output={tmp_path / 'out'}", "--max-pairs=4") == 0
    assert {line["scene"] for line in lines(tmp_path / "out")} == {"clip", "second"}
    assert len(find_pairs(tmp_path / "out")) == 4


def test_gamma_response_and_seed_matter(tmp_path, clip):
    folder, _ = clip
    (tmp_path / "curve.csv").write_text("\n".join(str(i**2.2) for i in range(256)))
    made, curve = {}, [f"--response={tmp_path / 'curve.csv'}"]
    for name, options in (("plain", []), ("one", ["--gamma=1"]), ("curve", curve), ("seed", ["--seed=1"])):
        assert prepare("video", "--source", folder, f"--output={tmp_path / name}", "--max-pairs=2", *options) == 0
        made[name] = {k: v for k, v in contents(tmp_path / name).items() if k.endswith(".png")}
    assert made["plain"] != made["one"]
    assert made["plain"].keys() == made["one"].keys() == made["curve"].keys() != made["seed"].keys()
    first = next(k for k in made["plain"] if "/blur/" in k)
    difference = read_rgb(tmp_path / "curve" / first).astype(int) - read_rgb(tmp_path / "plain" / first)
    assert np.abs(difference).max() <= 1  # half-way between two values is a matter of definition


@pytest.mark.parametrize("kind", ["video", "photos"])
def test_killed_and_run_again_it_ends_as_if_it_had_never_stopped(tmp_path, clip, photos, kind):
    source = clip[0] if kind == "video" else photos
    options = ["--frames=7"] if kind == "video" else ["--pairs-per-photo=2", "--blur-length=1,6", "--crop=32"]
    whole, cut = ([kind, f"--source={source}", f"--output={tmp_path / name}", *options] for name in ("whole", "cut"))
    argv = [sys.executable, "-c", HANGING, "4", str(tmp_path / "hangs"), *cut, "--workers=2"]
    environment = tiny.environment()  # compiled as in this process: the same bytes are asked for
    process = subprocess.Popen(argv, env=environment, cwd=Path(__file__).parent)
    while not (tmp_path / "hangs").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cut").rglob("*.png") if not path.name.startswith(".")}
    assert 2 <= len(before) < 2 * len(lines(tmp_path / "cut"))
    assert any((tmp_path / "cut").rglob(".drsn-*"))
    assert prepare(*cut) == 0
    assert prepare(*whole, "--workers=1") == 0
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    done = [path for path in before if path.with_name(path.name).exists() and _partner(path) in before]
    assert done
    assert all(path.stat().st_mtime_ns == before[path] for path in done), "a pair that was there was made again"
    check_pairs(find_pairs(tmp_path / "cut"))


@pytest.mark.parametrize("side", ["blur", "sharp"])
def test_half_a_pair_is_made_again(tmp_path, clip, side):
    command = ["video", f"--source={clip[0]}", f"--output={tmp_path / 'out'}"]
    prepare(*command)
    before = contents(tmp_path / "out")
    sorted((tmp_path / "out").rglob(f"{side}/*.png"))[1].unlink()
    assert contents(tmp_path / "out") != before
    prepare(*command)
    assert contents(tmp_path / "out") == before


def _partner(path):
    other = {"blur": "sharp", "sharp": "blur"}
    return tiny.Path(*(other.get(part, part) for part in path.parts))


def test_a_complete_folder_is_left_alone_and_other_settings_are_refused(tmp_path, clip, capsys):
    folder, images = clip
    command = ["video", f"--source={folder}", f"--output={tmp_path / 'out'}"]
    prepare(*command, "--max-pairs=3")
    before = contents(tmp_path / "out")
    capsys.readouterr()
    assert prepare(*command, "--max-pairs=3") == 0
    assert "(0 made now)" in capsys.readouterr().out
    for change, says in (
        ("--max-pairs=2", r"max_pairs=3, now requested is max_pairs=2"),
        ("--gamma=1", "response="),
        ("--seed=4", "seed=0"),
    ):
        with pytest.raises(InputError, match=says) as raised:
            prepare(*command, *{"--max-pairs=3": 0, change: 0} if not change.startswith("--max") else [change])
        assert "--overwrite" in str(raised.value)
        assert "\n" not in str(raised.value)
    write_frames(folder, images[:99])  # the last frame again: the same number, other bytes
    Image.fromarray(images[0]).save(folder / "000100.png")
    with pytest.raises(InputError, match="sources"):
        prepare(*command, "--max-pairs=3")
    assert contents(tmp_path / "out") == before


def test_overwriting_replaces_what_was_made_and_nothing_else(tmp_path, clip):
    folder, _ = clip
    command = ["video", f"--source={folder}", f"--output={tmp_path / 'out'}"]
    prepare(*command, "--frames=7")
    (tmp_path / "out" / "clip" / "notes.txt").write_text("mine")
    before = contents(tmp_path / "out")
    with pytest.raises(InputError, match="does not move"):  # found before anything is removed
        prepare(*command, "--min-motion=1000", "--overwrite")
    assert contents(tmp_path / "out") == before
    prepare(*command, "--frames=9", "--overwrite")
    prepare("video", f"--source={folder}", f"--output={tmp_path / 'new'}", "--frames=9")
    assert contents(tmp_path / "out") == contents(tmp_path / "new") | {"clip/notes.txt": b"mine"}


@pytest.mark.parametrize("overwrite", [True, False])
def test_somebody_elses_folder_is_never_written_into(tmp_path, clip, overwrite):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "000001.png").write_bytes(b"holiday")
    with pytest.raises(InputError, match="contains other files"):
        prepare("video", "--source", clip[0], f"--output={tmp_path / 'out'}", *["--overwrite"] * overwrite)
    assert contents(tmp_path / "out") == {"000001.png": b"holiday"}
    (tmp_path / "out" / "settings.json").write_text("[]")
    with pytest.raises(InputError, match="not written by this command"):
        prepare("video", "--source", clip[0], f"--output={tmp_path / 'out'}")


MISTAKES = {
    "--frames=1-3": "use 2 or more",
    "--frames=9-7": "use 2 or more",
    "--frames=many": "whole number",
    "--frames=200": "fewer than the 200",
    "--stride=0": "use 1 or more",
    "--stride=half": "whole number",
    "--max-pairs=0": "use 1 or more",
    "--min-motion=-1": "0 ",
    "--min-motion=nan": "0 ",
    "--min-motion=900": r"does not move: the most motion in 7 to 13 frames is \d+\.\d\d pixels, at least 900",
    "--cut-threshold=1": "more than 1",
    "--exclude=0-5": "first frame is 1",
    "--exclude=9-5": "both ends",
    "--exclude=5-": "whole number|not a range",
    "--exclude=400-500": r"beyond the last frame \(100\)",
    "--exclude=1-100": "in a row",
    "--gamma=0": "gamma=0",
    "--response=missing.csv": "missing.csv cannot be read",
    "--workers=0": "use 1 or more",
    "--seed=-1": "out of range",
    "--seed=4294967296": "out of range",
}


@pytest.mark.parametrize("option", MISTAKES)
def test_mistakes_with_videos(tmp_path, clip, option):
    command = ["video", f"--source={clip[0]}", f"--output={tmp_path / 'out'}", option]
    with pytest.raises(InputError, match=MISTAKES[option]) as raised:
        prepare(*command)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_a_still_video_says_what_threshold_it_misses(tmp_path, clip):
    still = write_frames(tmp_path / "still", [clip[1][0]] * 20)
    with pytest.raises(InputError, match=r"still does not move: .* 0\.00 pixels, at least 2 are needed"):
        prepare("video", "--source", still, f"--output={tmp_path / 'out'}")
    assert not (tmp_path / "out").exists()


def test_where_to_write_has_to_be_clear(tmp_path, clip, photos):
    for where in ([], ["--output=a", "--beam-runner=DirectRunner"], ["--beam-runner=DirectRunner"], ["--output=a", "--data-dir=b"]):
        with pytest.raises(InputError, match="Give either --output"):
            prepare("video", "--source", clip[0], *where)
    for inside in (photos, photos / "pairs"):
        with pytest.raises(InputError, match="lies inside"):
            prepare("photos", f"--source={photos}", f"--output={inside}")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        prepare("photos", f"--source={photos}", f"--output={tmp_path / 'file'}")
    with pytest.raises(InputError, match="is a file"):
        prepare("photos", f"--source={photos}", f"--output={tmp_path / 'file' / 'x'}")
    with pytest.raises(InputError, match="exclude each other"):
        prepare("video", "--source", clip[0], f"--output={tmp_path / 'out'}", "--gamma=2", "--response=x")


def photo_command(source, output, *options):
    return ["photos", f"--source={source}", f"--output={output}", "--blur-length=1,6", "--seed=3", *options]


def test_pairs_of_photographs(tmp_path, photos):
    assert prepare(*photo_command(photos, tmp_path / "out", "--pairs-per-photo=2")) == 0
    pairs = find_pairs(tmp_path / "out")
    check_pairs(pairs)
    assert [pair.name for pair in pairs] == sorted(f"{name}-{copy}" for name in ("0", "1", "2", "3", "more/4") for copy in (1, 2))
    for pair in pairs:
        sharp = read_rgb(pair.sharp)
        np.testing.assert_array_equal(sharp, read_rgb(photos / f"{pair.name[:-2]}.png"))
        assert (read_rgb(pair.blurred) != sharp).any()
    blurred = [pair.blurred.read_bytes() for pair in pairs]
    assert len(set(blurred)) == len(blurred), "two copies have the same blur"


def test_a_pair_depends_on_its_photograph_its_name_and_the_seed_alone(tmp_path, photos):
    prepare(*photo_command(photos, tmp_path / "all", "--crop=32", "--noise-variance=0.001"))
    made = contents(tmp_path / "all")
    few = tmp_path / "few"
    (few / "more").mkdir(parents=True)
    for name in ("2.png", "more/4.png"):
        shutil.copy(photos / name, few / name)
    shutil.copy(photos / "2.png", few / "renamed.png")
    prepare(*photo_command(few, tmp_path / "some", "--crop=32", "--noise-variance=0.001", "--workers=3"))
    some = contents(tmp_path / "some")
    for name in ("blur/2.png", "sharp/2.png", "blur/more/4.png", "sharp/more/4.png"):
        assert some[name] == made[name]
    assert some["blur/renamed.png"] != some["blur/2.png"]
    prepare(*photo_command(few, tmp_path / "other", "--crop=32", "--noise-variance=0.001")[:-1], "--noise-variance=0.001", "--seed=4")
    assert contents(tmp_path / "other")["blur/2.png"] != some["blur/2.png"]


def test_a_crop_is_a_part_of_its_photograph_blurred_with_what_lies_around_it(tmp_path, photos):
    prepare(*photo_command(photos, tmp_path / "out", "--crop=24", "--pairs-per-photo=3"))
    places = set()
    for pair in find_pairs(tmp_path / "out"):
        photo, sharp = read_rgb(photos / f"{pair.name[:-2]}.png"), read_rgb(pair.sharp)
        windows = np.lib.stride_tricks.sliding_window_view(photo, (24, 24), axis=(0, 1)).transpose(0, 1, 3, 4, 2)
        found = np.argwhere((windows == sharp).all((2, 3, 4)))
        assert len(found) == 1
        places.add(tuple(found[0]))
    assert len(places) > 10


def test_without_blur_and_noise_the_two_images_are_equal(tmp_path, photos):
    prepare(*photo_command(photos, tmp_path / "out")[:-2], "--blur-length=0", "--blur-saturation=0")
    for pair in find_pairs(tmp_path / "out"):
        np.testing.assert_array_equal(read_rgb(pair.blurred), read_rgb(pair.sharp))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--crop=60"], r"64x48, smaller than the crop of 60; use --crop=48"),
        (["--crop=0"], "--crop=0 is not a size"),
        (["--crop=big"], "whole number"),
        (["--pairs-per-photo=0"], "use 1 or more"),
        (["--seed=-1"], "out of range"),
        (["--blur-length=9,3"], "not a range"),
        (["--blur-length=a,b"], "LOW,HIGH"),
        (["--blur-cross=-1"], "out of range"),
        (["--blur-cross=nan"], "out of range"),
        (["--blur-variation=1e9"], "out of range"),
        (["--blur-saturation=inf"], "out of range"),
        (["--blur-length=0,1e9"], "not a range; use 0 <= low <= high <= 500"),
        (["--blur-length=nan"], "not a range"),
        (["--noise-variance=0,inf"], "not a range"),
        (["--noise-variance=-1,0"], "not a range"),
        (["--source=/nowhere/at/all"], "is not a folder"),
    ],
)
def test_mistakes_with_photographs(tmp_path, photos, options, says):
    with pytest.raises(InputError, match=says) as raised:
        prepare(*photo_command(photos, tmp_path / "out"), *options)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_folders_that_hold_no_photographs_or_the_same_name_twice(tmp_path, photos):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no photographs"):
        prepare(*photo_command(tmp_path / "empty", tmp_path / "out"))
    Image.open(photos / "1.png").save(photos / "1.jpg")
    with pytest.raises(InputError, match="same name"):
        prepare(*photo_command(photos, tmp_path / "out"))
    (photos / "1.jpg").unlink()
    (photos / "1.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="is not an image"):
        prepare(*photo_command(photos, tmp_path / "out"))


def test_a_damaged_photograph_stops_it_and_once_mended_it_goes_on(tmp_path, photos):
    whole = (photos / "3.png").read_bytes()
    (photos / "3.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="damaged"):
        prepare(*photo_command(photos, tmp_path / "out"))
    (photos / "3.png").write_bytes(whole)
    assert prepare(*photo_command(photos, tmp_path / "out")) == 0
    assert prepare(*photo_command(photos, tmp_path / "new")) == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "new")


def test_photographs_may_be_added_but_none_may_change_or_go(tmp_path, photos, capsys):
    shutil.copytree(photos, tmp_path / "kept")
    (photos / "1.png").unlink()
    prepare(*photo_command(photos, tmp_path / "out"))
    shutil.copy(tmp_path / "kept" / "1.png", photos)
    capsys.readouterr()
    assert prepare(*photo_command(photos, tmp_path / "out")) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("5 pairs")
    assert "(1 made now)" in printed
    assert prepare(*photo_command(photos, tmp_path / "new")) == 0
    before = contents(tmp_path / "out")
    assert before == contents(tmp_path / "new")
    (photos / "2.png").write_bytes((photos / "3.png").read_bytes())
    with pytest.raises(InputError, match=r"The source of 1 pairs in .* is missing or has changed \(the first is 2\)"):
        prepare(*photo_command(photos, tmp_path / "out"))
    assert contents(tmp_path / "out") == before
    assert prepare(*photo_command(photos, tmp_path / "out"), "--overwrite") == 0
    assert contents(tmp_path / "out") != before


def test_pairs_are_made_as_they_are_written_not_all_before(tmp_path):
    plan = [{"name": str(i), "blurred": f"blur/{i}.png", "sharp": f"sharp/{i}.png"} for i in range(40)]
    waiting = []

    def examples(missing):
        for line in missing:
            written = len(list(tmp_path.glob("out/sharp/*.png")))
            waiting.append(int(line["name"]) - written)
            yield line, np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2, 3), np.uint8)

    made = make_pairs(output=tmp_path / "out", settings={}, plan_fn=lambda report: plan, examples_fn=examples, workers=2)
    assert made == (40, 40)
    assert max(waiting) <= 6


@pytest.mark.parametrize("kind", ["video", "photos"])
def test_one_process_at_a_time_writes_into_a_folder(tmp_path, clip, photos, kind):
    command = [kind, f"--source={clip[0] if kind == 'video' else photos}", f"--output={tmp_path / 'out'}"]
    with lock_folder(tmp_path / "out", doing="testing"):
        with pytest.raises(InputError, match=r"process \d+ on .* is making pairs there"):
            prepare(*command, "--overwrite")
        assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]
    assert prepare(*command) == 0
    assert not list((tmp_path / "out").glob(".*"))


def test_where_nothing_was_made_other_settings_need_no_overwrite(tmp_path, photos):
    whole = {path: path.read_bytes() for path in photos.rglob("*.png")}
    for path, image in whole.items():
        path.write_bytes(image[: len(image) // 2])
    with pytest.raises(InputError, match="damaged"):
        prepare(*photo_command(photos, tmp_path / "out"))
    for path, image in whole.items():
        path.write_bytes(image)
    assert prepare(*photo_command(photos, tmp_path / "out", "--crop=32")) == 0
    assert prepare(*photo_command(photos, tmp_path / "new", "--crop=32")) == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "new")
    for path in (tmp_path / "out").rglob("sharp/*.png"):
        path.unlink()
    with pytest.raises(InputError, match="crop=32, now requested is crop="):  # half of each is there
        prepare(*photo_command(photos, tmp_path / "out"))


def test_an_image_alone_is_no_video(tmp_path, clip):
    single = write_frames(tmp_path / "single", clip[1][:1])
    with pytest.raises(InputError, match="single has a single frame") as raised:
        prepare("video", f"--source={single}", f"--output={tmp_path / 'out'}")
    assert "--frames" not in str(raised.value)
    few = write_frames(tmp_path / "few", clip[1][:4])
    with pytest.raises(InputError, match="--frames=2-4"):
        prepare("video", f"--source={few}", f"--output={tmp_path / 'out'}")
    assert prepare("video", f"--source={few}", f"--output={tmp_path / 'out'}", "--frames=2-4") == 0


def test_plans_are_compared_in_linear_time(tmp_path):
    compared = []

    class Line(dict):
        __hash__ = None

        def __eq__(self, other):
            compared.append(self["name"])
            return dict.__eq__(self, other)

    def make(count):
        plan = [Line(name=str(i), blurred=f"blur/{i}.png", sharp=f"sharp/{i}.png") for i in range(count)]
        return make_pairs(output=tmp_path, settings={}, plan_fn=lambda report: plan, examples_fn=lambda missing: [], extend=True)

    make(100)
    compared.clear()
    make(101)
    assert len(compared) <= 300, "each with every other"
