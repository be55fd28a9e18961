"""Compiled programs kept between runs. What a second run would find is seen by JAX's own events, after its caches are emptied."""

import os
import time
from contextlib import contextmanager

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from networks import quick_compiles, write_model  # noqa: F401
from PIL import Image

from drsn_jax.cli.main import main
from drsn_jax.system import programs
from drsn_jax.system.errors import InputError
from drsn_jax.system.processor import Processor
from drsn_jax.system.programs import SWITCH, keep_programs

EVENTS = {"hits": "/jax/compilation_cache/cache_hits", "compiled": "/jax/compilation_cache/cache_misses"}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Return the user's cache folder, which replaces the folder that the tests share."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(SWITCH, raising=False)
    before = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    jax.config.update("jax_compilation_cache_dir", None)
    yield tmp_path / "cache" / "drsn-jax"
    jax.config.update("jax_compilation_cache_dir", before)
    compilation_cache.reset_cache()


def entries(folder):
    return sorted(folder.glob("programs-*/*-cache"))


@contextmanager
def counting():
    """Count the programs that the block found in a cache, and those that it compiled and stored there."""
    counts, listening = dict.fromkeys(EVENTS, 0), True

    def listen(event, **_):
        for name, meant in EVENTS.items():
            counts[name] += listening and event == meant

    jax.monitoring.register_event_listener(listen)
    yield counts
    listening = False


def run(*factors):
    """Compute with each of the factors like a new process; return the numbers of found and compiled programs."""
    jax.clear_caches()
    with counting() as counts, keep_programs():
        for factor in factors:
            assert float(jax.jit(lambda x, factor=factor: x * factor + 1)(np.float32(2))) == 2 * factor + 1
    return counts


def test_a_second_run_finds_what_the_first_compiled(folder):
    before = {name: getattr(jax.config, name) for name in ("jax_compilation_cache_dir", *programs._SETTINGS)}
    assert run(2, 3) == {"hits": 0, "compiled": 2}
    assert len(entries(folder)) == 2
    assert run(2, 3) == {"hits": 2, "compiled": 0}
    assert run(3, 4) == {"hits": 1, "compiled": 1}
    assert {name: getattr(jax.config, name) for name in before} == before, "a library leaves JAX as it was"
    [made] = folder.iterdir()
    assert made.stat().st_mode & 0o077 == 0, "whoever may write there may run what he likes"


@pytest.mark.parametrize("damage", ["cut", "changed", "never used", "not noted"])
def test_a_damaged_program_is_compiled_anew(folder, damage):
    run(2, 3)
    first, second = entries(folder)
    content = first.read_bytes()
    if damage == "cut":
        first.write_bytes(content[: len(content) // 2])
    elif damage == "changed":
        first.write_bytes(content[:-20] + bytes([content[-20] ^ 1]) + content[-19:])
    elif damage == "never used":
        first.with_name(first.name.replace("-cache", "-atime")).unlink()
    else:  # of a run that was killed
        (first.parent / "checksums.json").write_text("[]")
    left = 0 if damage == "not noted" else 1
    assert run(2, 3) == {"hits": left, "compiled": 2 - left}
    assert run(2, 3) == {"hits": 2, "compiled": 0}
    assert entries(folder) == [first, second]


def test_the_size_is_limited_and_what_was_used_last_stays(folder, monkeypatch):
    run(2)
    [size] = [path.stat().st_size for path in entries(folder)]
    monkeypatch.setitem(programs._SETTINGS, "jax_compilation_cache_max_size", int(3.5 * size))
    run(3)
    run(2)
    run(4, 5)
    assert len(entries(folder)) == 3
    assert run(2, 4, 5) == {"hits": 3, "compiled": 0}
    assert run(3) == {"hits": 0, "compiled": 1}
    assert sum(path.stat().st_size for path in entries(folder)) <= 3.5 * size


def test_other_versions_and_processors_have_folders_of_their_own_and_old_ones_go(folder, monkeypatch):
    run(2)
    monkeypatch.setattr(programs, "__version__", "0.0")
    assert run(2) == {"hits": 0, "compiled": 1}
    monkeypatch.setattr(programs, "read_processor", lambda: Processor("another", ("avx2",)))
    assert run(2) == {"hits": 0, "compiled": 1}
    made = sorted(folder.iterdir(), key=lambda path: (path / "checksums.json").stat().st_mtime_ns)
    assert len(made) == 3
    month_ago = time.time() - 31 * 24 * 3600
    for path in made[:2]:
        os.utime(path / "checksums.json", (month_ago, month_ago))
    (folder / "mine").mkdir()
    run(2)
    assert set(folder.iterdir()) == {made[2], folder / "mine"}


def test_it_is_switched_off_by_a_variable_and_by_a_cache_of_ones_own(folder, monkeypatch, tmp_path):
    monkeypatch.setenv(SWITCH, "off")
    assert run(2) == {"hits": 0, "compiled": 0}
    monkeypatch.setenv(SWITCH, "no")
    with pytest.raises(InputError, match=rf"^{SWITCH}=no is not known; set it to off, or unset it\.$"), keep_programs():
        pass
    monkeypatch.delenv(SWITCH)
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "own"))
    with keep_programs():
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "own")  # pyright: ignore[reportAttributeAccessIssue]
    assert not folder.exists()


def test_where_nothing_can_be_written_nothing_is_kept(folder):
    folder.parent.mkdir()
    folder.write_text("a file")
    assert run(2) == {"hits": 0, "compiled": 0}
    assert folder.read_text() == "a file"


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {}, "/home/ada/.cache"),
        ("linux", {"XDG_CACHE_HOME": "relative"}, "/home/ada/.cache"),  # to be ignored, says the standard
        ("linux", {"XDG_CACHE_HOME": "/scratch/ada"}, "/scratch/ada"),
        ("darwin", {}, "/home/ada/Library/Caches"),
        ("win32", {"LOCALAPPDATA": "/home/ada/local"}, "/home/ada/local"),
    ],
)
def test_the_folder_is_the_platforms(platform, variables, expected, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(programs.sys, "platform", platform)
    assert str(programs._user_cache()) == expected


def test_the_second_restore_compiles_nothing_and_an_interrupted_one_keeps_what_it_has(folder, tmp_path, photograph, monkeypatch):
    model = write_model(tmp_path / "model", "unshuffle=2")
    (tmp_path / "in").mkdir()
    for name, width in (("a", 100), ("b", 61), ("c", 97)):  # the first and the last share a program
        Image.fromarray(photograph[:70, :width]).save(tmp_path / "in" / f"{name}.png")

    def restore(output, *inputs):
        jax.clear_caches()
        with counting() as counts:
            assert main(["restore", f"--model={model}", f"--output={tmp_path / output}", *map(str, inputs)]) in (0, 130)
        return counts

    def networks():
        return [path for path in entries(folder) if "apply_in_corner" in path.name]

    first = restore("first", tmp_path / "in")
    assert (first["hits"], len(networks())) == (0, 2)
    assert restore("second", tmp_path / "in")["compiled"] == 0
    for name in "abc":
        first, second = (np.asarray(Image.open(tmp_path / output / f"{name}.png")) for output in ("first", "second"))
        np.testing.assert_array_equal(first, second)

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    Image.fromarray(photograph[:40, :40]).save(tmp_path / "d.png")
    monkeypatch.setattr("drsn_jax.restoration.restore.write_photo", interrupted)
    restore("third", tmp_path / "d.png")
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder.parent))
    assert len(networks()) == 3
    assert restore("fourth", tmp_path / "d.png")["compiled"] == 0
