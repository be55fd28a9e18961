"""Files and folders through a generator that changes nothing: names, order, failures and what is left behind."""

import re

import jax
import numpy as np
import pytest
from PIL import Image

from drsn_jax.errors import InputError
from drsn_jax.restoration import images, restore
from drsn_jax.restoration.jobs import plan_jobs
from drsn_jax.restoration.restore import restore_files

identity = jax.jit(lambda blurred: blurred)


def run(inputs, output, predict_fn=identity, **options):
    return restore_files(inputs, output=output, predict_fn=predict_fn, stride=4, **options)


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
    assert re.fullmatch(r"\[4/4\] '.*' -> '.*'  7x5  \d+\.\d\d s/MP", lines[-1])


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
        ({"inputs": [tmp_path / "empty"]}, ["holds no images (1 other files)", ".jpg"]),
        ({"inputs": []}, ["No input"]),
        ({"inputs": [first], "output_format": "heic"}, ["'heic' is not known", "png"]),
        ({"inputs": [first], "output": tmp_path / "b.jpg", "output_format": "png"}, ["contradict"]),
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


def test_full_device_asks_for_less_and_our_own_failures_keep_their_traceback(tmp_path):
    path = save(tmp_path / "a.png")

    def full(blurred):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 123 bytes.")

    def broken(blurred):
        raise RuntimeError("a bug")

    [(_, message)] = run([path], tmp_path / "out", predict_fn=full, tile=96).failed
    assert "--tile=48" in message
    [(_, message)] = run([path], tmp_path / "out", predict_fn=full, tile=None).failed
    assert "use more devices, or restore in tiles (without --whole)" in message
    with pytest.raises(RuntimeError, match="a bug"):
        run([path], tmp_path / "out", predict_fn=broken)


def test_failed_write_is_a_line_and_the_next_file_is_done(tmp_path, monkeypatch):
    save(tmp_path / "in" / "a.png")
    save(tmp_path / "in" / "b.png")
    write = images._write_atomically

    def fails_for_a(data, path, *, overwrite):
        if path.name == "a.png":
            raise OSError(5, "Input/output error")
        write(data, path, overwrite=overwrite)

    monkeypatch.setattr(images, "_write_atomically", fails_for_a)
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
