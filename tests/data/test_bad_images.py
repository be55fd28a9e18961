"""Images that cannot be read, where they are passed over: what takes their place, what is said, and when there are too many of them."""

import itertools
from pathlib import Path

import downloads
import numpy as np
import pytest
import tiny
from PIL import Image

from drsn_jax.config.files import load_config
from drsn_jax.data.images.bad_images import BadImages
from drsn_jax.data.images.rgb import read_rgb
from drsn_jax.data.pairs import folders as pair_files
from drsn_jax.data.prepared.prepare import prepare_dataset
from drsn_jax.data.prepared.stored import open_prepared
from drsn_jax.evaluation.validation import validate
from drsn_jax.run.data import open_data
from drsn_jax.system.errors import BadImageError, InputError
from drsn_jax.training.sharding import make_mesh

CROP = 16


def passing_over(total, told=None):
    return BadImages(total, what="pairs", skip=True, tell_fn=[].append if told is None else told.append)


# Counting


def broken(name="a.png"):
    raise BadImageError(f"{name} is damaged")


@pytest.mark.parametrize(("total", "most"), [(1, 0), (2, 1), (5, 1), (19, 1), (20, 2), (2103, 210)])
def test_a_tenth_of_the_images_may_be_bad_and_one_at_least_but_never_all(total, most):
    told = []
    bad_images = passing_over(total, told)
    for number in range(most):
        assert bad_images.read(str(number), broken) is None
    with pytest.raises(InputError, match=f"{most + 1:,} of {total:,} pairs cannot be read" if most else "a.png is damaged"):
        bad_images.read("one more", broken)
    assert len(told) == most


def test_each_is_told_once_and_tried_again():
    told = []
    bad_images = passing_over(20, told)
    for _ in range(3):
        assert bad_images.read("a", broken) is None
    assert bad_images.read("b", lambda: broken("b.png")) is None
    assert bad_images.read("a", lambda: "mended") == "mended"
    assert told == [
        "a.png is damaged. It is skipped: 1 of 20 pairs so far, at most 2.",
        "b.png is damaged. It is skipped: 2 of 20 pairs so far, at most 2.",
    ]


def test_once_there_are_too_many_each_of_them_stops():
    bad_images = passing_over(3)
    for name, expected in (("a", None), ("b", InputError), ("a", InputError)):
        if expected is None:
            assert bad_images.read(name, broken) is None
        else:
            with pytest.raises(expected, match="check the files"):
                bad_images.read(name, broken)


def test_other_mistakes_are_never_passed_over():
    with pytest.raises(InputError, match="too small"):
        passing_over(20).read("a", lambda: (_ for _ in ()).throw(InputError("too small")))
    with pytest.raises(KeyError):
        passing_over(20).read("a", lambda: {}["ours"])


# The stream of tf.data


def write_pairs(root, count):
    """Blue is the number of the pair, red the row, green the column."""
    for side in ("blur", "sharp"):
        (root / side).mkdir(parents=True)
        for number in range(count):
            rows, columns = np.mgrid[:24, :40]
            image = np.stack([rows, columns, np.full_like(rows, number)], axis=-1).astype(np.uint8)
            Image.fromarray(image).save(root / side / f"{number:03d}.png")
    return pair_files.find_pairs(root)


def batches(pairs, told=None, *, start=0, steps=12, bad_images=None, **options):
    pytest.importorskip("tensorflow", reason="tf.data: pip install 'drsn-jax[data]'")
    from drsn_jax.data.pairs.pipeline import make_batches

    bad_images = bad_images or passing_over(len(pairs), told)
    options = {"batch_size": 4, "crop_size": CROP, "seed": 5, "noise_variance": (0.0, 0.001)} | options
    return list(make_batches(pairs, start_step=start, num_steps=steps - start, bad_images=bad_images, **options))


def numbers(stream):
    return [int(number) for batch in stream for number in np.rint((batch["sharp"][:, 0, 0, 2] + 1) * 127.5)]


def equal(some, others):
    assert len(some) == len(others)
    for batch, other in zip(some, others, strict=True):
        for side in ("blurred", "sharp"):
            np.testing.assert_array_equal(batch[side], other[side])


@pytest.mark.parametrize("cache", [False, True])
def test_the_pair_after_takes_the_place_and_the_rest_of_the_stream_is_the_same(cache, tmp_path, capfd):
    pairs, told = write_pairs(tmp_path, 20), []
    clean = batches(pairs)
    pairs[19].sharp.write_bytes(pairs[19].sharp.read_bytes()[:60])  # the first stands in for the last
    pairs[7].blurred.unlink()
    capfd.readouterr()
    damaged = batches(pairs, told, cache=cache)
    assert numbers(damaged) == [{19: 0, 7: 8}.get(number, number) for number in numbers(clean)]
    assert {7, 19} <= set(numbers(clean))
    for number, (batch, other) in enumerate(zip(damaged, clean, strict=True)):
        kept = [row for row in range(4) if numbers(clean)[4 * number + row] not in (7, 19)]
        np.testing.assert_array_equal(batch["blurred"][kept], other["blurred"][kept])
    window = np.rint((damaged[0]["sharp"][..., :2] + 1) * 127.5)
    np.testing.assert_array_equal(window, np.rint((clean[0]["sharp"][..., :2] + 1) * 127.5), "cut where the other would have been")
    assert sorted(line.split("'")[1] for line in told) == [str(pairs[7].blurred), str(pairs[19].sharp)], "each once"
    assert capfd.readouterr().err == "", "not a word from TensorFlow"
    for start in (1, 6):
        equal(batches(pairs, start=start, cache=cache), damaged[start:])
    halves = [batches(pairs, process_index=rank, process_count=2, cache=cache) for rank in range(2)]
    equal([{side: np.concatenate([x[side], y[side]]) for side in x} for x, y in zip(*halves, strict=True)], damaged)


def test_too_many_stop_the_stream(tmp_path):
    pairs = write_pairs(tmp_path, 5)
    for pair in pairs[1:4]:
        pair.sharp.write_bytes(b"text")
    with pytest.raises(InputError, match=r"[23] of 5 pairs cannot be read, .* at most 1; .* is not an image"):
        batches(pairs)
    for pair in pairs:
        pair.sharp.unlink()
    with pytest.raises(InputError, match="does not exist"):
        batches(pairs)


def test_pairs_that_do_not_fit_are_no_damage(tmp_path):
    pairs = write_pairs(tmp_path, 5)
    Image.new("RGB", (40, 25)).save(pairs[2].sharp)
    for read in (lambda: batches(pairs), lambda: pair_files.check_pairs(pairs, bad_images=passing_over(5))):
        with pytest.raises(InputError, match=r"24x40 but .* is 25x40 .*; give both one size, or remove the pair"):
            read()


def test_a_disk_that_fails_while_reading_is_told_by_the_files_name(tmp_path):
    failing = Path("/proc/self/mem")  # opens, and fails to be read as a bad sector does
    if not failing.exists():
        pytest.skip("no /proc here: this file is how reading is made to fail")
    pairs = write_pairs(tmp_path, 5)
    pairs[2].sharp.unlink()
    pairs[2].sharp.symlink_to(failing)
    with pytest.raises(InputError, match=r"002\.png' is"):
        batches(pairs, bad_images=BadImages(5, what="pairs", skip=False))


def test_a_damaged_record_of_a_prepared_set(tmp_path, monkeypatch):
    pytest.importorskip("array_record", reason="pip install 'drsn-jax[data]'")
    downloads.expect_tiny(monkeypatch)
    names = [f"{side}/{number}.png" for side in ("blur", "sharp") for number in range(9)]
    source = downloads.write_folder(tmp_path / "source", downloads.images(*names))
    prepare_dataset("deblurring_pairs", source=source, variant="own", say_fn=len, data_dir=tmp_path / "sets")
    pairs = open_prepared("deblurring_pairs/own", data_dir=tmp_path / "sets").pairs
    clean, told = batches(pairs, noise_variance=(0.0, 0.0)), []
    [path] = (tmp_path / "sets/deblurring_pairs/own").glob("*/*array_record*")
    contents = path.read_bytes()
    at = contents.index(pairs[4].sharp.read_bytes()[60:90])
    path.write_bytes(contents[:at] + bytes(30) + contents[at + 30 :])
    fresh = open_prepared("deblurring_pairs/own", data_dir=tmp_path / "sets").pairs
    damaged = batches(fresh, told, noise_variance=(0.0, 0.0))
    assert len(told) == 1
    assert "deblurring_pairs/own:train 000004 4 " in told[0]
    rows = [np.concatenate([batch["sharp"] for batch in stream]) for stream in (clean, damaged)]
    differing = sum(not np.array_equal(row, other) for row, other in zip(*rows, strict=True))
    assert differing in (48 // 9, 48 // 9 + 1), "once an epoch"


# What a run opens


def open_run(**changes):
    changes = {"batch_size": 8, "on_bad_image": "skip"} | changes
    return open_data(load_config("default", tiny.options(**changes)), mesh=make_mesh())


@pytest.fixture
def gopro(tmp_path, photograph):
    return tiny.write_gopro(tmp_path / "gopro", photograph)


def test_a_run_through_tf_data_goes_on_and_says_so_once(gopro, capfd):
    pytest.importorskip("tensorflow", reason="tf.data: pip install 'drsn-jax[data]'")
    path = gopro / "GOPR1" / "sharp" / "000003.png"
    path.write_bytes(path.read_bytes()[:1000])
    data = open_run(data="pairs", train_dir=gopro)
    assert [batch["sharp"].shape for batch in itertools.islice(data.stream_fn(0, 3), 3)] == [(8, 32, 32, 3)] * 3
    [line] = [line for line in capfd.readouterr().err.splitlines() if line.startswith("drsn-jax")]
    assert line.startswith(f"drsn-jax: '{path}' is damaged or cut short")
    assert line.endswith("It is skipped: 1 of 5 training pairs so far, at most 1.")
    with pytest.raises(InputError, match=str(path)):
        list(open_run(data="pairs", train_dir=gopro, on_bad_image="stop").stream_fn(0, 3))


@pytest.mark.parametrize("contents", [b"", None])
def test_resident_pairs_are_the_others(contents, gopro, capsys):
    """Found by its header, or when it is decoded."""
    path = gopro / "GOPR1" / "sharp" / "000003.png"
    path.write_bytes(path.read_bytes()[:1000] if contents is None else contents)
    data = open_run(data="resident", train_dir=gopro)
    assert data.num_images == 4
    assert capsys.readouterr().err.count(f"drsn-jax: '{path}' is ") == 1
    with pytest.raises(InputError, match=str(path)):
        open_run(data="resident", train_dir=gopro, on_bad_image="stop")


def test_photographs_do_not_change_sides_where_one_is_left_out(tmp_path, photograph, capsys):
    """Of five, the first and the fourth are held out; with the second gone the third would be the fourth's neighbour."""
    photos = tiny.write_photos(tmp_path / "photos", photograph)
    held = [sharp for _, _, sharp in open_run(data="photos", train_dir=photos, hold_out_every=3, eval_images=0).validation_fn()]
    (photos / "1.png").write_bytes(b"text")
    data = open_run(data="photos", train_dir=photos, hold_out_every=3, eval_images=0)
    assert data.num_images == 2
    for image, other in zip(held, data.validation_fn(), strict=True):
        np.testing.assert_array_equal(image, other[2])
    assert "1.png' is not an image" in capsys.readouterr().err
    (photos / "3.png").write_bytes(b"text")
    assert len(list(open_run(data="photos", train_dir=photos, hold_out_every=3, eval_images=0).validation_fn())) == 1
    (photos / "0.png").write_bytes(b"text")
    with pytest.raises(InputError, match="2 of 2 photographs held out cannot be read"):
        open_run(data="photos", train_dir=photos, hold_out_every=3)


def test_validation_leaves_one_out_and_the_noise_of_the_others_alone(gopro, capsys):
    def scores(**changes):
        data = open_run(data="resident", train_dir=gopro, eval_dir=gopro, eval_images=0, **changes)
        seen = []
        validate(
            data.validation_fn,
            restore_fn=lambda image: seen.append(image) or image,
            noise_variances=(0.01,),
            protocol="full",
            num_panels=0,
        )
        return seen

    clean = scores()
    path = gopro / "GOPR0" / "blur" / "000002.png"
    number = [str(pair.blurred) for pair in pair_files.find_pairs(gopro)].index(str(path))
    contents = path.read_bytes()
    path.write_bytes(contents[:1000])
    capsys.readouterr()
    damaged = scores()
    assert capsys.readouterr().err.count("validation pairs so far") == 1
    assert len(damaged) == 4
    for image, other in zip(damaged, clean[:number] + clean[number + 1 :], strict=True):
        np.testing.assert_array_equal(image, other)
    with pytest.raises(InputError, match=str(path)):
        read_rgb(path)
