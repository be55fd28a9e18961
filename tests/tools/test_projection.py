"""Projections: what is read from a program's text and from a compiled step, the model's laws, and the table."""

import jax
import jax.numpy as jnp
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import quick_compiles  # noqa: F401

from drsn_jax.config.build import frozen_shapes, make_stages, make_training
from drsn_jax.config.files import load_config
from drsn_jax.ops.backend import PLAIN
from drsn_jax.ops.costs import count_macs
from drsn_jax.planning.memory import Line
from projection import report
from projection.__main__ import main
from projection.machines import MACHINES, V5E, Machine, Ring
from projection.model import Load, Work, batch_for, compute_seconds, efficiency, exchange_seconds, step_seconds
from projection.program import AllReduce, read_movement
from projection.work import measure_work

PROGRAM = """HloModule jit_step, is_scheduled=true

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%inside (p: f32[256]) -> f32[256] {
  %p = f32[256]{0} parameter(0)
  ROOT %negated = f32[256]{0} negate(%p)
}

%body (carry: (s32[], f32[256])) -> (s32[], f32[256]) {
  %carry = (s32[], f32[256]{0}) parameter(0)
  %i = s32[] get-tuple-element(%carry), index=0
  %v = f32[256]{0} get-tuple-element(%carry), index=1
  %reduced = f32[256]{0:T(256)} all-reduce(%v), channel_id=1, replica_groups={{0,1}}, to_apply=%add
  ROOT %next = (s32[], f32[256]{0}) tuple(%i, %reduced)
}

%end (carry: (s32[], f32[256])) -> pred[] {
  %carry.1 = (s32[], f32[256]{0}) parameter(0)
  ROOT %go = pred[] constant(true)
}

%called (q: bf16[8,4]) -> bf16[8,4] {
  %q = bf16[8,4]{1,0} parameter(0)
  ROOT %doubled = bf16[8,4]{1,0} add(%q, %q)
}

ENTRY %main (a: f32[256], b: bf16[8,4], i: s32[]) -> f32[256] {
  %a = f32[256]{0} parameter(0)
  %b = bf16[8,4]{1,0} parameter(1)
  %i = s32[] parameter(2)
  %fused = f32[256]{0} fusion(%a), kind=kLoop, calls=%inside
  %start = (s32[], f32[256]{0}) tuple(%i, %fused)
  %loop = (s32[], f32[256]{0}) while(%start), condition=%end, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %call = bf16[8,4]{1,0} call(%b), to_apply=%called
  %both = (f32[256]{0}, /*index=1*/pred[]) all-reduce(%fused, %c), channel_id=2, to_apply=%add
  %c = pred[] constant(false)
  ROOT %result = f32[256]{0} get-tuple-element(%loop), index=1
}
"""


def test_a_program_is_read_with_loops_as_often_as_they_run():
    movement = read_movement(PROGRAM)
    assert movement.all_reduces == (AllReduce(1024, 5), AllReduce(1025, 1))
    assert movement.reduced == 5 * 1024 + 1025
    fused, loop, call, both = 2 * 1024, 5 * 2 * 1024, 3 * 64, 2 * 1025
    assert movement.memory == fused + loop + call + both, "what a fusion holds inside is not moved, parameters and tuples are free"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [('"known_trip_count":{"n":"5"}', "", "no known length"), ("all-reduce(%v)", "all-gather(%v)", "only sums over the devices")],
)
def test_what_cannot_be_counted_is_not_left_out_in_silence(old, new, message):
    with pytest.raises(ValueError, match=message):
        read_movement(PROGRAM.replace(old, new))


# By a real compilation

NETWORK = tiny.OPTIONS | {"lipschitz": "none", "trunk": "quarter", "widths": "4,4,4", "critic_widths": "4"}


@pytest.fixture(scope="module")
def config():
    return load_config("default", [f"--config.{key}={value}" for key, value in NETWORK.items()])


@pytest.fixture(scope="module")
def state(config):
    return jax.eval_shape(make_training(config, num_train_steps=6).init, jax.random.key(0))


@pytest.fixture(scope="module")
def work(config):
    return measure_work(config, crop_size=32)


def test_gradients_are_summed_once_an_update_and_nothing_else_goes_between_devices(work, state):
    """The frequency loss and the thresholds' mean included, which once sent every device the images of all."""
    generator, critic = (sum(x.size for x in jax.tree.leaves(params)) for params in (state.generator_params, state.critic_params))
    gradients = 4 * (generator + 2 * critic)
    scalars = 4 * 2 * 20  # losses and the like, less than twenty an update
    assert gradients <= sum(each.bytes * each.times for each in work.all_reduces) <= gradients + scalars


def test_bytes_and_operations_of_a_step(config, work, state):
    parameters = 4 * sum(x.size for x in jax.tree.leaves((state.generator_params, state.critic_params)))
    assert work.memory.fixed > 7 * parameters, "Adam reads four arrays of that size and writes three"
    assert work.memory.per_pixel > 2 * 3 * 4, "blurred and sharp are read"
    image = jax.ShapeDtypeStruct((4, 32, 32, 3), jnp.float32)
    step = make_training(config, num_train_steps=6, forms=PLAIN).train_step
    macs = count_macs(step, state, {"blurred": image, "sharp": image}, frozen_shapes(config))
    assert work.flops_per_pixel * 4 * 32 * 32 == pytest.approx(2 * macs, rel=1e-6)


# The model's laws

rings = st.builds(Ring, st.integers(2, 64), st.floats(1e9, 1e12), st.floats(0, 1e-4))
works = st.builds(
    Work,
    st.floats(1e3, 1e8),
    st.builds(Line, st.floats(0, 1e10), st.floats(1, 1e6)),
    st.lists(st.builds(AllReduce, st.integers(1, 10**9), st.integers(1, 100)), max_size=4).map(tuple),
    st.sampled_from(("float32", "bfloat16")),
)
machines = st.lists(rings, min_size=1, max_size=2).map(lambda found: Machine("some", V5E, tuple(found)))
loads = st.builds(Load, st.integers(1, 64), st.sampled_from((64, 256)))


@given(works, loads)
def test_one_device_exchanges_nothing(work, load):
    alone = Machine("one", V5E)
    assert exchange_seconds(work.all_reduces, alone.rings) == (0, (0, 0))
    assert step_seconds(work, alone, load) == compute_seconds(work, V5E, load)
    assert efficiency(work, alone, load) == (1, 1)
    assert batch_for(work, alone, 64) == 1


@settings(max_examples=50)
@given(works, machines, loads)
def test_devices_are_never_more_than_their_number_and_never_slower_for_being_better(work, machine, load):
    devices = machine.devices
    split = Load(load.batch_size / devices, load.crop_size)
    for found in (efficiency(work, machine, load), efficiency(work, machine, split, alone=load)):
        assert 0 < found.low <= found.high <= 1 + 1e-9
    assert efficiency(work, machine, split, alone=load).low <= efficiency(work, machine, load).low + 1e-9, "split batches scale worse"
    before = step_seconds(work, machine, load)
    faster = V5E._replace(bytes_per_second=2 * V5E.bytes_per_second)
    for better in (
        machine._replace(device=faster),
        machine._replace(rings=tuple(ring._replace(bytes_per_second=2 * ring.bytes_per_second) for ring in machine.rings)),
        machine._replace(rings=tuple(ring._replace(latency=ring.latency / 2) for ring in machine.rings)),
        machine._replace(rings=machine.rings[:-1]),
    ):
        after = step_seconds(work, better, load)
        assert after.low <= before.low
        assert after.high <= before.high


def test_a_ring_worked_out_on_paper():
    sums = (AllReduce(8 * 10**9, 2),)
    one = exchange_seconds(sums, (Ring(4, 1e9, 1e-3),))
    assert one.sending == pytest.approx(2 * 3 / 4 * 16)
    assert one.waiting == pytest.approx((6e-3, 12e-3)), "two sums of six steps; by trees half"
    two = exchange_seconds(sums, (Ring(4, 1e9, 0), Ring(2, 1e8, 0)))
    assert two.sending == pytest.approx(24 + 2 * 1 / 2 * 16e9 / 4 / 1e8), "a quarter of it is left for the second ring"


# The table

MADE = Work(5e6, Line(2e9, 5e4), (AllReduce(10**7, 6),), "bfloat16")


def test_rows_are_the_recipe_where_it_divides_and_its_batch_on_every_device():
    stages = make_stages(load_config("best"))
    rows = {(row.machine.name, row.times): row for m in MACHINES for row in report.make_rows(MADE, m, stages, steps=300_000)}
    assert set(rows) == {
        *(("v5e-1", 1), ("v5e-8", 1), ("v5e-8", 8), ("v5e-256", 256)),
        *(("1 H100", 1), ("8 H100", 1), ("8 H100", 8), ("64 H100", 64)),
    }, "batches of 32 and 8 do not divide over 64"
    for row in rows.values():
        assert row.step.low <= row.step.high
        assert row.hours.low == pytest.approx(300_000 / row.times * row.step.low / 3600), "both stages have as many pixels"
        assert row.dollars.high == pytest.approx(row.hours.high * row.machine.devices * row.machine.device.dollars_per_hour)
        assert row.pairs_per_second.high == pytest.approx(8 * row.times / row.step.low)
    assert rows["v5e-1", 1].efficiency == (1, 1)
    assert rows["v5e-8", 1].efficiency.low < rows["v5e-8", 8].efficiency.low
    doubled = next(report.make_rows(MADE, MACHINES[0], stages, steps=300_000, parts=6))
    assert doubled.pairs_per_second.high == pytest.approx(6 * rows["v5e-1", 1].pairs_per_second.high), "fresh batches for the critic"
    split = {row.times for row in report.make_rows(MADE, MACHINES[1], stages, steps=300_000, micro_batches=2)}
    assert split == {8}, "a batch of 8 is no two micro-batches over 8 devices"


def test_steps_of_recipes():
    assert report.count_steps(load_config("best"), report.PAIRS) == 300_000
    assert report.count_steps(load_config("paper"), report.PAIRS) == 300 * 2103


def test_from_the_command_line(monkeypatch, capsys):
    monkeypatch.setattr(report, "measure_work", lambda config, crop_size: MADE)
    assert main(["--config=paper", "--config.dtype=bfloat16"]) == 0
    text = capsys.readouterr().out
    assert "630,900 steps" in text
    assert "Nothing was run." in text
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")]
    assert [row[:2] for row in rows[1:]] == [[m.name, str(m.devices)] for m in MACHINES]
    assert rows[1][3] == "100 %"
    assert main(["--config=keras_reference"]) == 2, "what would not train is not projected"
    assert "batch of 1" in capsys.readouterr().err


def test_an_interrupted_study_is_one_line_and_code_130(monkeypatch, capsys):
    def interrupt(*given, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(report, "measure_work", interrupt)
    assert main(["--config=paper"]) == 130
    captured = capsys.readouterr()
    assert (captured.out, captured.err.splitlines()[-1]) == ("", "projection: interrupted")


@pytest.mark.parametrize(("value", "text"), [(0.0123, "0.012"), (1.26, "1.3"), (18.4, "18"), (1234.0, "1,200"), (99.6, "100"), (0.0, "0")])
def test_two_digits(value, text):
    assert report._round(value) == text
