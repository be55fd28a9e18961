"""What `drsn-jax bench` times: the parts of our step and of the Keras reference's, what they cost, and a whole run with real processes."""

import gzip
import json
import os
import subprocess

os.environ.setdefault("KERAS_BACKEND", "jax")  # before keras is imported

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import xla_flags
from networks import quick_compiles  # noqa: F401

from drsn_jax.benchmark.comparable import describe_differences, resolve_bench_config
from drsn_jax.benchmark.our_rows import make_critic_part, make_generator_part, prepare
from drsn_jax.benchmark.rows import ROWS
from drsn_jax.benchmark.workload import count_row_macs
from drsn_jax.cli.main import main
from drsn_jax.config.build import frozen_shapes, make_generator, make_training
from drsn_jax.config.files import load_config
from drsn_jax.ops.backend import PLAIN
from drsn_jax.ops.costs import count_macs
from drsn_jax.system.errors import InputError
from drsn_jax.system.processor import Processor
from drsn_jax.training.critic import CriticState
from drsn_jax.weights.vgg19 import load_frozen

TINY = {"widths": "4,6,8", "num_blocks": 1, "critic_widths": "4,4", "dense_features": 16, "dropout": 0.0, "critic_steps": 2}


def configure(name="paper", **changes):
    """Make a tiny configuration at 32x32, as a worker gets it: through JSON."""
    changes = TINY | {"crop_size": 32} | changes
    config = load_config(name, [f"--config.{key}={value}" for key, value in changes.items()])
    return json.loads(json.dumps(config))


def run_step(config):
    """One training step and its batch; dropout is off, so that nothing depends on keys."""
    training = make_training(config, num_train_steps=10)
    rng = np.random.default_rng(0)
    batch = {name: jnp.asarray(rng.uniform(-1, 1, (config["batch_size"], 32, 32, 3)), jnp.float32) for name in ("blurred", "sharp")}
    state = jax.jit(training.init)(jax.random.key(0))
    return state, batch, jax.jit(training.train_step)(state, batch, load_frozen(config))[0]


def assert_close(first, second):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), first, second)


def test_the_parts_are_those_of_the_training_step():
    # A bias before a norm has no gradient but rounding, of which Adam with a small epsilon would make a step.
    config = configure("keras_reference", batch_size=2, threshold_norm="none", epsilon=1e-3)
    state, batch, after = run_step(config)
    variables = {"params": state.generator_params, "batch_stats": state.generator_stats}
    restored = jax.jit(make_generator(config).apply)(variables, batch["blurred"])
    critic_state = CriticState(state.critic_params, state.critic_stats, state.critic_opt_state)
    critic_state, _ = jax.jit(make_critic_part(config))(critic_state, {"sharp": batch["sharp"], "restored": restored})
    assert_close(critic_state.params, after.critic_params)
    state = state.replace(critic_params=critic_state.params, critic_stats=critic_state.stats)
    state, _ = jax.jit(make_generator_part(config))(state, batch, load_frozen(config))
    assert_close((state.generator_params, state.generator_stats, state.step), (after.generator_params, after.generator_stats, after.step))


def test_a_critic_that_is_left_alone_has_no_part():
    with pytest.raises(InputError, match="adversarial_weight=0"):
        prepare(ROWS["critic-part"], config=configure(adversarial_weight=0.0), folder="")


def test_frames_are_widened_to_what_the_network_takes():
    config = configure("default", stages="()", num_blocks=1, unshuffle=4)
    prepared = prepare(ROWS["inference"]._replace(frame=(30, 44)), config=config | {"batch_size": 2}, folder="")
    restored = prepared.call()
    assert isinstance(restored, np.ndarray)  # on the host, as Keras' are
    assert restored.shape == (2, 32, 48, 3)
    assert prepared.images == 2


def count(row, **changes):
    return count_row_macs(row, config=configure(**changes), size=(32, 32))


def test_the_multiply_adds_of_each_row():
    inference, critic_part, generator_part = count("inference"), count("critic-part"), count("generator-part")
    without_critic = count("generator-part", adversarial_weight=0.0)
    vgg19 = without_critic - 3 * inference
    critic = (generator_part - without_critic) // 2
    assert critic_part == 2 * 2 * 3 * critic  # updates x (sharp and restored) x (forward, and both gradients)
    assert vgg19 == without_critic - count("generator-part", adversarial_weight=0.0, content_weight=0.0, pixel_weight=1.0)
    assert count("training-step") == critic_part + generator_part
    assert count("training-step", fake_mode="inference") == critic_part + generator_part + inference
    assert count("training-step", critic_batches="fresh") == critic_part + generator_part + 2 * inference
    assert count("training-step", batch_size=3) == 3 * (critic_part + generator_part)
    assert count("training-step", adversarial_weight=0.0) == without_critic
    assert count("input-pipeline") is None
    penalised = {"lipschitz": "gradient_penalty", "critic_norm": "none"}
    assert count("training-step", **penalised) is None
    assert count("generator-part", **penalised) == generator_part


def test_the_nominal_step_is_near_what_its_plain_form_computes():
    """That form also computes gradients of borders, and none of the images: hence not the same."""
    config = configure(widths="16,32,64", critic_widths="16,32,64", crop_size=128, dense_features=64)
    training = make_training(config, num_train_steps=10, forms=PLAIN)
    state = jax.eval_shape(training.init, jax.random.key(0))
    image = jax.ShapeDtypeStruct((1, 128, 128, 3), jnp.float32)
    counted = count_macs(training.train_step, state, {"blurred": image, "sharp": image}, frozen_shapes(config))
    assert count_row_macs("training-step", config=config, size=(128, 128)) == pytest.approx(counted, rel=0.05)


def settle(config, **changes):
    return resolve_bench_config(config, **{"batch_size": None, "crop_size": None, "keras": True} | changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trunk": "unet", "critic": "patch"}, "trunk=unet has no Keras form here; use --config.trunk=quarter"),
        ({"critic": "patch"}, "critic=patch has no Keras form here; use --config.critic=dense"),
        ({"norm": "instance"}, "norm=instance has no Keras form here; use batch, layer or none"),
        ({"pixel_weight": 1.0}, "pixel_weight=1.0 has no Keras form here; use --config.pixel_weight=0, or omit --against"),
        ({"critic_batches": "fresh"}, "use --config.critic_batches=same"),
        ({"ema_decay": 0.9}, "use --config.ema_decay=0"),
        ({"content_weight": 0.0}, "content_weight=0 has no Keras form here"),
    ],
)
def test_what_keras_cannot_express_is_refused_only_against_it(changes, words):
    config = configure(**changes)
    with pytest.raises(InputError) as error:
        settle(config)
    assert words in str(error.value)
    assert settle(config, keras=False)["batch_size"] == 1


def test_what_training_refuses_is_refused():
    config = configure("keras_reference", batch_size=1)
    with pytest.raises(InputError, match="threshold_norm=batch and a batch of 1"):
        settle(config)
    assert settle(config, batch_size=2)["batch_size"] == 2
    with pytest.raises(InputError, match="Crops of 30 do not fit the generator"):
        settle(configure(), crop_size=30)


def test_of_several_stages_the_last_one_is_measured():
    config = json.loads(json.dumps(load_config("default")))
    settled = settle(config, keras=False)
    assert (settled["stages"], settled["crop_size"], settled["batch_size"]) == ((), 256, 8)
    assert settle(config, keras=False, crop_size=64, batch_size=3) | {"stages": 0} == settled | {
        "stages": 0,
        "crop_size": 64,
        "batch_size": 3,
    }


def test_what_the_loops_do_otherwise_is_said():
    notes = describe_differences(configure())
    assert "critic_update=joint (Keras: alternating)" in notes[0]
    assert notes[1].startswith("Ours updates the critic 2 times, on sharp and restored images together; Keras 4 times")
    assert len(describe_differences(configure(critic_update="alternating"))) == 1
    assert describe_differences(configure("keras_reference")) == []


@pytest.fixture
def bench(tmp_path, monkeypatch, capfd):
    """Run the verb in this process, with real workers. Returns `returncode`, `stdout` and `stderr` like a process."""

    def run(*arguments):
        options = [f"--config.{key}={value}" for key, value in TINY.items()]
        code = main(["bench", "--crop-size=32", "--seconds=0.5", *options, *arguments])
        return subprocess.CompletedProcess(arguments, code, *capfd.readouterr())

    monkeypatch.chdir(tmp_path)
    flags = f"{xla_flags.QUICK} --xla_llvm_disable_expensive_passes=false"  # else a call takes seconds
    for name, value in tiny.environment(XLA_FLAGS=flags).items():
        monkeypatch.setenv(name, value)
    return run


def test_a_whole_run_against_keras_with_a_trace(bench, tmp_path, monkeypatch):
    pytest.importorskip("keras", reason="pip install 'drsn-jax[bench]'")
    monkeypatch.setattr("drsn_jax.benchmark.bench.read_processor", lambda: Processor("any", frozenset()))  # in float32 alone: half the time
    done = bench("--against=keras-jax", "--rows=inference", "--profile=trace")
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "bench.json").read_text())
    [row] = document["rows"]
    cells = {cell["subject"]: cell for cell in row["cells"]}  # also in bfloat16, on a processor with units for it
    ours, keras = cells["ours-float32"], cells["keras-jax"]
    assert row["title"] == "inference 32x32"
    assert row["ratios"]["float32"] == {"ratio": keras["median"] / ours["median"], "fastest_keras": "keras-jax"}
    for cell in cells.values():
        assert len(cell["seconds"]) == cell["n"] >= 2
        assert cell["spread"][0] <= cell["median"] <= cell["spread"][1]
        assert cell["compile_seconds"] > 0
        assert cell["peak_bytes"] >= cell["imported_bytes"] > 10_000_000
        assert cell["macs"] == ours["macs"] > 0
        assert cell["share_of_peak"] > 0
    assert row["peak_flops_per_second"]["ours-float32"] > 1e8
    assert document["command"].startswith("drsn-jax bench --crop-size=32")
    assert document["versions"]["keras"]
    assert (document["config"]["widths"], document["config"]["crop_size"]) == ([4, 6, 8], 32)
    assert "Keras / ours" in done.stdout
    assert "bench: inference 32x32: round 1: ours-float32, keras-jax" in done.stderr
    check_trace([tmp_path / line.removeprefix("Trace: ") for line in done.stdout.splitlines() if line.startswith("Trace: ")])


def check_trace(files):
    """Check the files for XProf and for Perfetto, and the traced calls in the latter."""
    assert any(file.name.endswith(".xplane.pb") and file.stat().st_size > 1000 for file in files)
    [trace] = [file for file in files if file.name == "perfetto_trace.json.gz"]
    names = {event.get("name") for event in json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]}
    assert {"training step", "inference"} <= names


@pytest.mark.parametrize(("row", "dtype"), [("training-step", "float32"), ("generator-part", "bfloat16")])
def test_the_rows_of_keras_train_its_networks(row, dtype, monkeypatch):
    keras_rows = pytest.importorskip("drsn_jax.benchmark.keras_rows", reason="pip install 'drsn-jax[bench]'")
    make_generator, made = keras_rows.keras_models.make_generator, []
    monkeypatch.setattr(keras_rows.keras_models, "make_generator", lambda **options: made.append(make_generator(**options)) or made[-1])
    prepared = keras_rows.prepare(ROWS[row], config=configure(batch_size=2, dtype=dtype), folder="")
    first, second = prepared.call(), prepared.call()
    assert first["generator/loss"] != second["generator/loss"]
    assert ("critic/sharp" in first) == (row == "training-step")
    assert prepared.images == 2
    assert {layer.compute_dtype for layer in made[0].layers} == {dtype}
    assert keras_rows.keras.config.dtype_policy().name == "float32", "layers of others are unchanged"


def test_a_refusal_of_a_worker_is_one_line(bench, tmp_path):
    done = bench("--config=keras_reference")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("drsn-jax: threshold_norm=batch and a batch of 1")
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_device_that_does_not_answer_is_one_line(bench, tmp_path):
    done = bench("--rows=inference", "--timeout=0.01")
    assert done.returncode == 2
    assert "gave no answer in 0.01 s" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_ours_failing_is_code_1_and_in_the_table(bench, tmp_path):
    """Nobody has the memory for such an image."""
    done = bench("--rows=inference", "--crop-size=10000000", "--config.critic=patch")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "inference 10000000x10000000 float32 failed" in [" ".join(line.split()) for line in done.stdout.splitlines()]
    cell = json.loads((tmp_path / "bench.json").read_text())["rows"][0]["cells"][0]
    assert "MemoryError: Unable to allocate" in cell["error"]
    assert "Traceback" not in done.stderr
