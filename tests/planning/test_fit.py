"""What fits a card: sizes, the line through two compilations, proposals by a made-up memory, and one by real compilations."""

import re
import shlex

import jax
import jax.numpy as jnp
import pytest
import tiny
from networks import quick_compiles  # noqa: F401

from drsn_jax.cli.main import main
from drsn_jax.config.build import frozen_shapes, make_stages, make_training
from drsn_jax.config.files import load_config
from drsn_jax.planning import fit, memory
from drsn_jax.planning.memory import CARDS, Line, memory_table, parse_size, state_bytes, step_bytes, usable
from drsn_jax.system.errors import InputError
from drsn_jax.training.schedule import Stage

GB = 10**9


@pytest.mark.parametrize(
    ("text", "size"),
    [("8GB", 8 * GB), ("500MB", 500e6), ("7.5gb", 7.5e9), ("1 TB", 1e12), ("4GiB", 4 * 2**30), (" .5GB ", 5e8), ("300KB", 3e5)],
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["8", "GB", "-8GB", "8 giga", "8GBs", "0GB", "nanGB", "8G B", ""])
def test_what_is_no_size(text):
    with pytest.raises(InputError, match=r"is not a size of memory; write it as 8GB") as caught:
        parse_size(text)
    assert "\n" not in str(caught.value)


class Made:
    """A memory that is a line over pixels, smaller with remat; counts what is compiled."""

    def __init__(self, monkeypatch, *, fixed=0.2e9, each=10_000.0, with_remat=0.5, extra=lambda batch: 0.0):
        self.fixed, self.each, self.with_remat, self.extra, self.compiled = fixed, each, with_remat, extra, []
        monkeypatch.setattr(memory, "step_bytes", self)
        monkeypatch.setattr(fit, "step_bytes", self)

    def __call__(self, config, *, batch_size, crop_size, remat=False, accumulation_steps=1, **changes):
        assert batch_size % accumulation_steps == 0
        self.compiled.append((batch_size, crop_size, remat, accumulation_steps))
        each = self.each * (self.with_remat if remat else 1.0)
        return int(self.fixed + each * batch_size / accumulation_steps * crop_size**2 + self.extra(batch_size))


def propose(name, size, *changes):
    """Return the text, and the loaded configuration of each proposed command line."""
    changes = [f"--config.{change}" for change in changes]
    text = fit.describe_fit(load_config(name, changes), name=name, overrides=changes, size=parse_size(size), say=lambda line: None)
    lines = [shlex.split(line) for line in text.splitlines() if line.startswith("  drsn-jax train")]
    overrides = [[word for word in line if word.startswith("--config.")] for line in lines]
    assert all(f"--config={name}" in line for line in lines)
    assert all("--workdir=WORKDIR" in line and "--config.train_dir=DIR" in line for line in lines)
    return text, [load_config(name, given) for given in overrides]


def test_the_recipe_as_it_is_where_it_fits_and_the_largest_batch(monkeypatch):
    made = Made(monkeypatch)
    text, (recipe, largest) = propose("paper", "8GB")
    assert (recipe["batch_size"], recipe["crop_size"], recipe["remat"], recipe["accumulation_steps"]) == (1, 256, False, 1)
    assert (largest["batch_size"], largest["remat"]) == (8, False)
    assert made(recipe, batch_size=8, crop_size=256) <= usable(8 * GB) < made(recipe, batch_size=9, crop_size=256)
    assert "cpu" in text
    assert "For a GPU these figures are an estimate" in text
    assert "30% is reserved" in text
    assert "5.60 GB usable" in text
    assert len(made.compiled) - 2 <= 6, "bounded"


def test_remat_before_micro_batches_and_micro_batches_before_smaller_crops(monkeypatch):
    Made(monkeypatch)
    changes = ("batch_size=8", "crop_size=256", "stages=()")
    found = []
    for size in ("10GB", "5GB", "3GB", "2GB", "0.75GB"):
        _, proposals = propose("default", size, *changes)
        found.append(tuple(proposals[0][key] for key in ("batch_size", "crop_size", "remat", "accumulation_steps")))
    assert found == [(8, 256, False, 1), (8, 256, True, 1), (8, 256, True, 2), (8, 256, True, 4), (3, 128, True, 1)]


def test_stages_are_kept_and_the_largest_of_them_decides(monkeypatch):
    made = Made(monkeypatch)
    text, [found] = propose("best", "4GB")
    assert make_stages(found) == make_stages(load_config("best"))
    assert (found["remat"], found["accumulation_steps"]) == (True, 2)
    assert (16, 256, True, 2) not in made.compiled
    assert [line.split()[:2] for line in text.splitlines() if re.match(r" +\d", line)] == [
        [crop, remat] for crop in ("128", "256") for remat in ("False", "True")
    ]


def test_smaller_crops_replace_the_stages_and_other_changes_stay(monkeypatch):
    Made(monkeypatch)
    _, proposals = propose("best", "0.6GB", "seed=7", "dtype=bfloat16")
    assert [(stage.first_step, stage.crop_size) for stage in make_stages(proposals[0])] == [(0, 128)]
    assert all((found["seed"], found["dtype"]) == (7, "bfloat16") for found in proposals)


def test_a_proposal_that_needs_more_than_the_line_says_is_not_made(monkeypatch):
    made = Made(monkeypatch, extra=lambda batch: 3e9 * (batch == 8))
    _, [found, *_] = propose("default", "10GB", "batch_size=8", "crop_size=256", "stages=()")
    assert found["remat"], "without, 8 images were compiled and did not fit"
    assert (8, 256, False, 1) in made.compiled
    assert len(made.compiled) <= 4 + 2 * fit.MOST_CHECKS


def test_batch_norm_of_thresholds_gets_two_images(monkeypatch):
    Made(monkeypatch)
    text, proposals = propose("keras_reference", "8GB")
    assert proposals[0]["batch_size"] == 2
    assert "the smallest batch that trains" in text


@pytest.mark.parametrize(
    ("size", "why", "compiled"),
    [("8MB", r"0\.0056 GB are usable: parameters and optimisers alone take 0\.18", 0), ("290MB", r"crops of 32 need about 0\.205 GB", 4)],
)
def test_a_card_too_small_for_anything(monkeypatch, size, why, compiled):
    made = Made(monkeypatch)
    with pytest.raises(InputError, match=rf"paper does not fit .* GB, of which .*{why}.*; use a smaller network") as caught:
        propose("paper", size)
    assert "\n" not in str(caught.value)
    assert len(made.compiled) == compiled, "before anything is compiled, where the state alone is too large"


def test_what_a_proposal_says_of_batch_norm_in_micro_batches(monkeypatch):
    Made(monkeypatch)
    warned = {}
    for name in ("paper", "default"):
        text, [found, *_] = propose(name, "2GB", "batch_size=8", "crop_size=256", *(["stages=()"] if name == "default" else []))
        assert found["accumulation_steps"] > 1
        warned[name] = "the statistics of each micro-batch" in text
    assert warned == {"paper": True, "default": False}


def test_many_micro_batches_are_compiled_as_two_and_the_images_of_the_others_added(monkeypatch):
    made = Made(monkeypatch, fixed=0.0, each=0.0)
    stage = Stage(0, 64, 8)
    for changes, images in (([], 3), (["critic_batches=fresh", "critic_steps=2"], 7)):
        config = load_config("paper", [f"--config.{change}" for change in changes])
        needed = fit.check(config, stage, remat=True, accumulation_steps=4, say=lambda line: None)
        assert made.compiled[-1] == (4, 64, True, 2)
        assert needed == 4 * images * 64 * 64 * 3 * 4, "blurred and sharp of every part, and restored"


def test_a_line():
    line = Line(100.0, 2.0)
    assert line.at(3, 10) == 700
    assert [line.largest_batch(limit, 10) for limit in (700, 699, 50)] == [3, 2, 0]


def test_the_table(monkeypatch):
    made = Made(monkeypatch)
    text = memory_table(load_config("paper"), name="paper", say=lambda line: None)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    assert rows[0] == ["crop", "batch", "float32", "float32, remat", "bfloat16", "bfloat16, remat"]
    kinds = ["1", "2", "4", "8", *(f"most on {card} GB" for card in CARDS)]
    assert [row[:2] for row in rows[2:]] == [[crop, kind] for crop in ("128", "256") for kind in kinds]
    assert len(made.compiled) == 16
    for row in rows[2:]:
        crop, kind = int(row[0]), row[1]
        if kind.startswith("most on"):
            limit = usable(int(kind.split()[2]) * GB)
            for most, remat in zip(map(int, row[2:]), (False, True, False, True), strict=True):
                needed = [made({}, batch_size=most + more, crop_size=crop, remat=remat) for more in (0, 1)]
                assert needed[0] <= limit < needed[1] or pytest.approx(limit, abs=2) in needed
            continue
        for cell, remat in zip(row[2:], (False, True, False, True), strict=True):
            needed = made({}, batch_size=int(row[1]), crop_size=int(row[0]), remat=remat)
            card = next((f"{card} GB" for card in CARDS if needed <= usable(card * GB)), "none")
            assert cell == f"{needed / 1e9:.2f} ({card})"
    assert "30% is reserved" in text
    assert "cpu" in text


# By real compilations

NETWORK = tiny.OPTIONS | {"trunk": "quarter", "critic_steps": 1, "lipschitz": "none", "widths": "8,8,8", "crop_size": 64}


def network(**changes):
    return [f"--config.{key}={value}" for key, value in (NETWORK | changes).items()]


def test_bytes_are_those_of_the_compiled_step_and_nearly_a_line():
    config = load_config("default", network())
    needed = {batch: step_bytes(config, batch_size=batch, crop_size=64) for batch in (2, 4, 8)}
    assert needed[4] == pytest.approx((2 * needed[2] + needed[8]) / 3, rel=0.03)
    training = make_training(config | {"batch_size": 4}, num_train_steps=6)
    state = jax.eval_shape(training.init, jax.random.key(0))
    images = jax.ShapeDtypeStruct((4, 64, 64, 3), jnp.float32)
    images = {"blurred": images, "sharp": images}
    compiled = jax.jit(training.train_step, donate_argnums=0).lower(state, images, frozen_shapes(config)).compile()
    held = compiled.memory_analysis()
    new = held.output_size_in_bytes - held.alias_size_in_bytes
    assert needed[4] == held.argument_size_in_bytes + held.temp_size_in_bytes + new
    batch = 4 * 64 * 64 * 3 * 2 * 4
    assert state_bytes(config, crop_size=64) == pytest.approx(held.argument_size_in_bytes - batch, rel=0.01), "what is not the batch"


def test_fresh_batches_are_counted():
    config = load_config("default", network(critic_batches="fresh", critic_steps=2))
    once = load_config("default", network(critic_steps=2))
    more = step_bytes(config, batch_size=2, crop_size=32) - step_bytes(once, batch_size=2, crop_size=32)
    assert more >= 2 * 2 * 2 * 32 * 32 * 3 * 4, "blurred and sharp of two more batches"


@pytest.mark.soak
def test_from_the_command_line(capsys):
    assert main(["info", "--config=default", *network(batch_size=4, crop_size=32), "--fit=100MB"]) == 0
    text = capsys.readouterr().out
    assert "default on a card of 0.1 GB" in text
    assert "--config.batch_size=4 --config.crop_size=32 --config.remat=False" in text
    [needed] = re.findall(r"Proposal, the recipe's batch and crop; (\d\.\d+) GB, compiled:", text)
    config = load_config("default", network())
    assert float(needed) == pytest.approx(step_bytes(config, batch_size=4, crop_size=32) / 1e9, abs=0.006)
    assert main(["info", "--fit=8"]) == 2
    assert main(["info", "--fit="]) == 2
    assert main(["info", "--fit=8GB", "--costs"]) == 2
    assert main(["info", "--model=runs/none", "--fit=8GB"]) == 2
    assert "omit --model" in capsys.readouterr().err
