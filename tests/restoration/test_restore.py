"""Files and folders through a generator that changes nothing: names, order, failures and what is left behind."""

import re
import threading
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.ExifTags import Base

from drsn_jax.restoration import restore
from drsn_jax.restoration.core.restorer import make_restore_fn
from drsn_jax.restoration.files import images
from drsn_jax.restoration.jobs import plan_jobs
from drsn_jax.restoration.restore import restore_files
from drsn_jax.system.errors import InputError
from drsn_jax.weights.model import Model

identity = jax.jit(lambda blurred: blurred)


def run(inputs, output=None, predict_fn=identity, tile=768, overlap=64, **options):
    restore_fn = make_restore_fn(Model(predict_fn, 4, {}, {}), tile=tile, overlap=overlap)
    return restore_files(inputs, output=output, restore_fn=restore_fn, **options)


def save(path, seed=0, size=(7, 5), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], len(mode)), dtype=np.uint8)
    Image.frombytes(mode, size, samples.tobytes()).save(path, "PNG" if path.suffix == ".bin" else None)
    return path


def same(first, second):
    with Image.open(first) as a, Image.open(second) as b:
        return np.array_equal(np.asarray(a), np.asarray(b))


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_folder_keeps_its_structure(tmp_path, capsys):
    folder, output = tmp_path / "in", tmp_path / "out"
    names = ["a.png", "b.PNG", "deep/er/c.tif", "deep/a.png"]
    for seed, name in enumerate(names):
        save(folder / name, seed)
    save(folder / ".hidden.png")
    save(folder / ".thumbs" / "d.png")
    (folder / "notes.txt").write_text("no image")
    report = run([folder], output)
    assert tree(output) == sorted(names)
    assert all(same(folder / name, output / name) for name in names)
    assert (len(report.restored), report.failed, report.ignored) == (4, [], 1)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert re.fullmatch(r"\[4/4\] '.*' -> '.*'  7x5 in \d+\.\d s", lines[-1])


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (3, 2), (70, 41)])
def test_any_size_in_tiles(tmp_path, size):
    path = save(tmp_path / "image.png", size=size, mode="RGBA")
    run([path], tmp_path / "out", tile=32, overlap=8)
    assert same(path, tmp_path / "out" / "image.png")


def test_network_sees_and_returns_the_range_it_was_trained_in(tmp_path):
    path = tmp_path / "image.png"
    Image.new("RGB", (8, 8), (0, 255, 51)).save(path)
    run([path], tmp_path / "out", predict_fn=lambda blurred: -blurred)
    with Image.open(tmp_path / "out" / "image.png") as image:
        assert image.getpixel((3, 3)) == (255, 0, 204)


def test_a_bad_file_never_stops_the_others(tmp_path, capsys):
    folder, output = tmp_path / "in", tmp_path / "out"
    save(folder / "a.png")
    (folder / "b.png").write_bytes(b"broken")
    save(folder / "c.png")
    save(output / "c.png", seed=9)
    save(folder / "d.png")
    report = run([tmp_path / "missing.png", folder], output)
    assert [path.name for path in report.restored] == ["a.png", "d.png"]
    assert [(path.name, message.split("'")[2].split(",")[0].split(";")[0].strip()) for path, message in report.failed] == [
        ("missing.png", "does not exist"),
        ("b.png", "is not an image of a format that can be read"),
        ("c.png", "already exists"),
    ]
    assert all("\n" not in message for _, message in report.failed)
    assert len(capsys.readouterr().err.splitlines()) == 5
    assert run([folder / "c.png"], output, overwrite=True).restored == [output / "c.png"]
    assert same(folder / "c.png", output / "c.png")


def test_taken_and_impossible_names_cost_no_work(tmp_path):
    def never(blurred):
        raise AssertionError("the network was asked although the result cannot be kept")

    path = save(tmp_path / "image.png", mode="RGBA")
    assert "already exists" in run([path], tmp_path, predict_fn=never).failed[0][1]
    assert "transparency" in run([path], tmp_path / "out", output_format="jpg", predict_fn=never).failed[0][1]
    assert not (tmp_path / "out").exists()


def test_output_inside_the_input_is_not_restored_again(tmp_path):
    save(tmp_path / "a.png")
    save(tmp_path / "sub" / "b.png")
    output = tmp_path / "sub" / "out"
    assert len(run([tmp_path], output).restored) == 2
    again = run([tmp_path], output, overwrite=True)
    assert (len(again.restored), again.failed) == (2, [])
    assert tree(tmp_path) == ["a.png", "sub/b.png", "sub/out/a.png", "sub/out/sub/b.png"]


def test_output_format_and_single_file_names(tmp_path):
    path = save(tmp_path / "photo.tif")
    assert run([path], tmp_path / "out", output_format="PNG").restored == [tmp_path / "out" / "photo.png"]
    assert run([path], tmp_path / "result.png").restored == [tmp_path / "result.png"]
    with Image.open(tmp_path / "result.png") as image:
        assert image.format == "PNG"
    (tmp_path / "folder.png").mkdir()
    assert run([path], tmp_path / "folder.png").restored == [tmp_path / "folder.png" / "photo.tif"]
    jpeg = save(tmp_path / "photo.jpeg")
    assert run([jpeg], tmp_path / "out", output_format="jpg").restored == [tmp_path / "out" / "photo.jpeg"]  # is one already
    odd = save(tmp_path / "unusual.bin")
    assert run([odd], tmp_path / "out").restored == [tmp_path / "out" / "unusual.bin"]


def test_a_file_without_suffix_is_named_by_its_content(tmp_path):
    Image.new("RGB", (8, 6), (9, 90, 200)).save(tmp_path / "photo", "TIFF")
    assert run([tmp_path / "photo"]).restored == [tmp_path / "photo.restored.tif"]
    assert same(tmp_path / "photo", tmp_path / "photo.restored.tif")
    assert run([tmp_path / "photo"], tmp_path / "out").restored == [tmp_path / "out" / "photo"]
    with Image.open(tmp_path / "out" / "photo") as image:
        assert image.format == "TIFF"
    assert run([tmp_path / "photo"], tmp_path / "other", output_format="png").restored == [tmp_path / "other" / "photo.png"]
    (tmp_path / "text").write_text("no image")
    [(_, message)] = run([tmp_path / "text"]).failed
    assert "is not an image of a format that can be read" in message


def test_an_output_whose_suffix_names_no_format_is_refused_with_the_nearest(tmp_path):
    path = save(tmp_path / "a.png")
    for name, hint in (("b.jpgg", r"did you mean \.jpg\?"), ("b.tfif", r"did you mean \.tiff?\?"), ("b.xyzzy", "use one of .jpg")):
        with pytest.raises(InputError, match=hint):
            run([path], tmp_path / name)
        assert not (tmp_path / name).exists()
    (tmp_path / "v1.2").mkdir()
    assert run([path], tmp_path / "v1.2").restored == [tmp_path / "v1.2" / "a.png"]
    save(tmp_path / "in" / "c.png")
    assert run([tmp_path / "in"], tmp_path / "v1.3").restored == [tmp_path / "v1.3" / "c.png"], "of many, a folder it must be"


def test_a_link_that_points_at_itself_is_one_line_and_the_others_are_done(tmp_path, capsys):
    save(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "loop.png").symlink_to("loop.png")
    (tmp_path / "in" / "gone.png").symlink_to("nowhere.png")
    report = run([tmp_path / "in", tmp_path / "in" / "loop.png"], tmp_path / "out")
    assert [path.name for path in report.restored] == ["a.png"]
    assert [path.name for path, _ in report.failed] == ["gone.png", "loop.png"]
    assert all("is a broken link" in message for _, message in report.failed)
    (tmp_path / "out" / "loop").symlink_to("loop")
    assert run([tmp_path / "in" / "a.png"], tmp_path / "out" / "loop" / "b.png").failed
    assert run([tmp_path / "in"], tmp_path / "out" / "loop").failed
    assert "Traceback" not in capsys.readouterr().err


def test_same_input_twice_is_done_once(tmp_path):
    path = save(tmp_path / "in" / "a.png")
    report = run([path, path, tmp_path / "in"], tmp_path / "out")
    assert (len(report.restored), report.failed) == (1, [])


def test_mistakes_in_the_whole_are_named_before_any_work(tmp_path):
    first, second = save(tmp_path / "x" / "a.png"), save(tmp_path / "y" / "a.png")
    third = save(tmp_path / "x" / "a.tif")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no image")
    cases = [
        ({"inputs": [first, second]}, [str(first), str(second), "would both be written to"]),
        ({"inputs": [first, third], "output_format": "png"}, [str(first), str(third), "rename"]),
        ({"inputs": [tmp_path / "empty"]}, ["holds no images and no videos (1 other files)", ".jpg", ".mp4"]),
        ({"inputs": []}, ["No input"]),
        ({"inputs": [first], "output_format": "jxl"}, ["'jxl' is not known", "png"]),
        ({"inputs": [first], "output": tmp_path / "b.jpg", "output_format": "png"}, ["contradict"]),
        ({"inputs": [first, third], "output": tmp_path / "b.png"}, ["b.png", "a single file", "give a folder"]),
        ({"inputs": [tmp_path / "x"], "output": tmp_path / "b.png"}, ["b.png", "a single file", "give a folder"]),
        ({"inputs": [first], "tile": 30}, ["--tile=32"]),
    ]
    for options, words in cases:
        with pytest.raises(InputError) as error:
            run(**{"output": tmp_path / "out", **options})
        assert all(word in str(error.value) for word in words), error.value
        assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_links_to_folders_are_not_followed(tmp_path):
    save(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    assert len(plan_jobs([tmp_path / "in"], output=tmp_path / "out").jobs) == 1


def test_interruption_leaves_whole_files_only(tmp_path):
    folder, output, calls = tmp_path / "in", tmp_path / "out", []
    for name in "abc":
        save(folder / f"{name}.png")

    def interrupted(blurred):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return blurred

    with pytest.raises(KeyboardInterrupt):
        run([folder], output, predict_fn=interrupted)
    assert tree(output) == ["a.png"]
    assert same(folder / "a.png", output / "a.png")


def test_full_device_names_the_file_and_our_own_failures_keep_their_traceback(tmp_path):
    path = save(tmp_path / "a.png")

    def full(blurred):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 123 bytes.")

    def broken(blurred):
        raise RuntimeError("a bug")

    [(_, message)] = run([path], tmp_path / "out", predict_fn=full, tile=96).failed
    assert str(path) in message
    assert "--tile=48" in message
    with pytest.raises(RuntimeError, match="a bug"):
        run([path], tmp_path / "out", predict_fn=broken)


def test_failed_write_is_a_line_and_the_next_file_is_done(tmp_path, monkeypatch):
    save(tmp_path / "in" / "a.png")
    save(tmp_path / "in" / "b.png")
    write = images.write_atomically

    def fails_for_a(path, data, *, overwrite):
        if path.name == "a.png":
            raise OSError(5, "Input/output error")
        write(path, data, overwrite=overwrite)

    monkeypatch.setattr(images, "write_atomically", fails_for_a)
    report = run([tmp_path / "in"], tmp_path / "out")
    assert report.restored == [tmp_path / "out" / "b.png"]
    assert "Input/output error" in report.failed[0][1]


def test_terminal_shows_what_is_being_done(tmp_path, capsys, monkeypatch):
    save(tmp_path / "in" / "a.png")
    monkeypatch.setattr(restore.sys.stderr, "isatty", lambda: True)
    run([tmp_path / "in"], tmp_path / "out")
    shown = capsys.readouterr().err
    assert "[0/1] restoring 'a.png' ..." in shown
    assert "\r\x1b[K[1/1]" in shown


def test_without_output_results_lie_beside_their_inputs(tmp_path, monkeypatch):
    photo, folder = save(tmp_path / "a photo.jpg"), tmp_path / "holiday"
    save(folder / "deep" / "b.png")
    odd = save(tmp_path / "no suffix.bin").rename(tmp_path / "none")
    report = run([photo, folder, odd], output_format="png")
    assert not report.failed
    assert tree(tmp_path) == [
        "a photo.jpg", "a photo.restored.png", "holiday.restored/deep/b.png", "holiday/deep/b.png", "none", "none.restored.png"
    ]  # fmt: skip
    monkeypatch.chdir(folder / "deep")
    assert run([Path(".")]).restored == [folder / "deep.restored" / "b.png"]
    again = run([photo], output_format="png")
    assert "already exists" in again.failed[0][1]


def test_what_an_earlier_run_made_is_no_input_of_the_next(tmp_path, capsys):
    inputs = ["a.jpg", "alone.restored/d.png", "b.png", "mine.panel.png", "mine.restored.png", "sub/c.png"]
    for name in inputs:
        save(tmp_path / name)
    assert not run([tmp_path / name for name in ("a.jpg", "b.png", "sub")], panel=True).failed
    results = {"a.restored.jpg", "a.restored.jpg.panel.png", "b.restored.png", "b.restored.png.panel.png"}
    assert results < set(tree(tmp_path))
    for again in ([tmp_path], sorted(tmp_path.iterdir())):  # the folder; `restore *`
        plan = plan_jobs(again)
        assert sorted(str(source.relative_to(tmp_path)) for source, _ in plan.jobs) == inputs
        assert {path.name for path in plan.results} == {*results, "sub.restored"}
    capsys.readouterr()
    run([tmp_path], tmp_path / "out")
    assert capsys.readouterr().err.startswith("Skipped 5 results of earlier runs, the first '")
    assert run([tmp_path / "a.restored.jpg"], tmp_path / "named").restored == [tmp_path / "named" / "a.restored.jpg"]


def test_panel_shows_before_and_after(tmp_path):
    folder, output = tmp_path / "in", tmp_path / "out"
    for name in ("a.jpg", "a.png"):
        Image.new("RGB", (60, 40), (0, 255, 51)).save(folder.mkdir(exist_ok=True) or folder / name, quality=100)
    save(folder / "grey.png", size=(60, 40), mode="LA")
    assert not run([folder], output, predict_fn=lambda blurred: -blurred, panel=True).failed
    assert tree(output) == ["a.jpg", "a.jpg.panel.png", "a.png", "a.png.panel.png", "grey.png", "grey.png.panel.png"]
    panel = np.asarray(Image.open(output / "a.png.panel.png"))[-40:]
    assert panel.shape[2] == 3
    assert (panel[:, :60] == (0, 255, 51)).all()
    assert (panel[:, -60:] == (255, 0, 204)).all()
    panel = np.asarray(Image.open(output / "grey.png.panel.png"))[-40:, -60:]
    np.testing.assert_array_equal(panel[..., 0], np.asarray(Image.open(output / "grey.png"))[..., 0])


def test_a_panel_that_is_there_is_kept_and_costs_no_work(tmp_path):
    def never(blurred):
        raise AssertionError("the network was asked although the panel cannot be kept")

    path = save(tmp_path / "a.png")
    panel = save(tmp_path / "out" / "a.png.panel.png", seed=3)
    before = panel.read_bytes()
    [(_, message)] = run([path], tmp_path / "out", predict_fn=never, panel=True).failed
    assert f"{str(panel)!r} already exists" in message
    assert (tree(tmp_path / "out"), panel.read_bytes()) == (["a.png.panel.png"], before)
    assert run([path], tmp_path / "out", panel=True, overwrite=True).restored == [tmp_path / "out" / "a.png"]
    assert panel.read_bytes() != before


def test_reading_and_writing_go_on_beside_the_device_and_are_bounded(tmp_path, monkeypatch):
    """Each step waits for what has to happen meanwhile: serial work would never end."""
    folder, names, restored = tmp_path / "in", [f"{name}.png" for name in "abcdef"], []
    for name in names:
        save(folder / name, size=(8, 8), seed=ord(name[0]))
    has_read, has_restored = ({name: threading.Event() for name in names} for _ in range(2))
    read, write = restore.read_photo, restore.write_photo

    def reading(path):
        has_read[path.name].set()
        return read(path)

    def predict(blurred):
        restored.append(names[len(restored)])
        if len(restored) == 1:
            assert has_read["b.png"].wait(60), "the next photograph is not read while the first is restored"
            assert not has_read["c.png"].wait(0.1), "more than one is read ahead"
        has_restored[restored[-1]].set()
        return blurred

    def writing(photo, image, target, **options):
        if target.name == "a.png":
            assert has_restored["b.png"].wait(60), "the second photograph is not restored while the first is written"
            assert not has_read["d.png"].wait(0.1), "more is read than can be written"
        write(photo, image, target, **options)

    monkeypatch.setattr(restore, "read_photo", reading)
    monkeypatch.setattr(restore, "write_photo", writing)
    assert [path.name for path in run([folder], tmp_path / "out", predict_fn=predict).restored] == names
    assert all(same(folder / name, tmp_path / "out" / name) for name in names)


def test_report_keeps_the_order_whatever_fails(tmp_path, capsys):
    folder = tmp_path / "in"
    for name in "abcd":
        save(folder / f"{name}.png")
    for name in "bd":
        (folder / f"{name}.png").write_bytes(b"broken")
    run([folder], tmp_path / "out")
    assert re.findall(r"\[(\d)/4\] '.*?(\w)\.png'", capsys.readouterr().err) == [("1", "a"), ("2", "b"), ("3", "c"), ("4", "d")]


def test_a_bug_while_writing_keeps_its_traceback(tmp_path, monkeypatch):
    def broken(*arguments, **options):
        raise RuntimeError("a bug")

    monkeypatch.setattr(restore, "write_photo", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        run([save(tmp_path / "a.png")], tmp_path / "out")


def test_metadata_and_profile_come_through(tmp_path):
    path, exif = tmp_path / "in.jpg", Image.Exif()
    exif[Base.Model], exif[Base.Orientation] = "camera", 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.new("RGB", (60, 40), (10, 200, 30)).save(path, exif=exif, icc_profile=profile, dpi=(300, 300))
    [target] = run([path], panel=True).restored
    with Image.open(target) as image:
        tags = image.getexif()
        assert (tags[Base.Model], tags[Base.Orientation], image.size) == ("camera", 1, (40, 60))
        assert image.info["icc_profile"] == profile
        assert image.info["dpi"] == (300, 300)
