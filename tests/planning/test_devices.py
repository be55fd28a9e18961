"""What is chosen for the devices found: precision, batch and what makes it fit, by made-up devices and memory."""

import json
import shlex

import jax
import pytest

from drsn_jax.cli.main import main
from drsn_jax.config.files import load_config
from drsn_jax.planning import fit, memory
from drsn_jax.planning.devices import HEADROOM, Devices, choose_dtype, describe_here, fit_config_to_devices, survey_devices
from drsn_jax.run.workdir import open_workdir
from drsn_jax.system.errors import InputError

GB = 10**9
CPU = Devices(1, "cpu", "cpu")


def gpu(size, *, count=1, capability="7.5"):
    """Describe GPUs with this number of bytes each."""
    return Devices(count, "gpu", "Tesla T4", capability, int(size))


class Memory:
    """Stands in for compiling: bytes by pixels in a micro-batch, half of them with remat."""

    def __init__(self, monkeypatch, *, fixed=0.2e9, each=10_000.0, error=None):
        self.fixed, self.each, self.error, self.compiled = fixed, each, error, []
        monkeypatch.setattr(memory, "step_bytes", self)
        monkeypatch.setattr(fit, "step_bytes", self)

    def __call__(self, config, *, batch_size, crop_size, remat=False, accumulation_steps=1, **_):
        self.compiled.append((batch_size, crop_size, remat, accumulation_steps))
        needed = int(self.fixed + self.each * (0.5 if remat else 1.0) * batch_size / accumulation_steps * crop_size**2)
        if self.error and needed > self.error[0]:
            raise self.error[1]
        return needed


def choose(name, devices, *changes, said=None, **options):
    overrides = [f"--config.{change}" for change in changes]
    say = (lambda line: None) if said is None else said.append
    return fit_config_to_devices(load_config(name, overrides), overrides=overrides, devices=devices, say=say, **options)


@pytest.mark.parametrize(
    ("devices", "dtype"),
    [
        (CPU, "float32"),
        (Devices(8, "tpu", "TPU v5 lite"), "bfloat16"),
        (gpu(GB, capability="7.5"), "float32"),
        (gpu(GB, capability="8.0"), "bfloat16"),
        (gpu(GB, capability="10.0"), "bfloat16"),
        (gpu(GB, capability="gfx90a"), "float32"),
        (gpu(GB, capability=None), "float32"),
    ],
)
def test_precision_by_what_the_hardware_multiplies(devices, dtype):
    assert choose_dtype(devices)[0] == dtype


def test_devices_are_found(monkeypatch):
    assert survey_devices() == Devices(8, "cpu", "cpu", None, None)

    class Device:
        platform, device_kind, compute_capability = "gpu", "NVIDIA L4", "8.9"

        def memory_stats(self):
            return {"bytes_limit": 17 * GB, "bytes_in_use": 0}

    monkeypatch.setattr(jax, "local_devices", lambda: [Device(), Device()])
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    assert survey_devices() == Devices(2, "gpu", "NVIDIA L4", "8.9", 17 * GB)


def test_without_known_memory_the_batch_is_a_multiple_of_the_devices_and_nothing_is_compiled(monkeypatch):
    counted = Memory(monkeypatch)
    config, text = choose("demo", CPU._replace(count=3))
    assert config == load_config("demo") | {"batch_size": 6}
    assert choose("best", CPU._replace(count=6)).config["stages"] == ((0, 128, 36), (200_000, 256, 12))
    assert choose("best", CPU._replace(count=3), "accumulation_steps=2").config["stages"] == load_config("best")["stages"], "as given"
    assert not counted.compiled
    assert text.splitlines() == [
        "Mesh: 3 device(s) along the axis `data`: cpu, cpu",
        "Precision: float32 (bfloat16 is slower on cpu)",
        "Batch: 6 crops of 64 from step 0; micro-batches: 1, remat: False",
    ]


def test_what_fits_is_compiled_once_with_what_one_device_has_of_it(monkeypatch):
    counted = Memory(monkeypatch)
    config, text = choose("best", gpu(2 * GB, count=8, capability="8.0"))
    assert config == load_config("best") | {"dtype": "bfloat16"}
    assert counted.compiled == [(4, 128, False, 1)]
    assert "2.0 GB usable on each" in text
    assert "0.86 of 1.80 GB on each device, compiled" in text


@pytest.mark.parametrize(("size", "remat", "steps"), [(7 * GB, False, 1), (4 * GB, True, 1), (2 * GB, True, 2), (1.5 * GB, True, 4)])
def test_the_recipe_is_kept_by_remat_and_micro_batches(size, remat, steps, monkeypatch):
    counted = Memory(monkeypatch)
    for count in (1, 2):
        stages = ((0, 128, 32 * count), (1000, 256, 8 * count))  # each of the two has what the one has
        config, _ = choose_own(stages, gpu(size, count=count), monkeypatch)
        assert (config["stages"], config["remat"], config["accumulation_steps"]) == (stages, remat, steps)
    last = counted.compiled[-1]
    assert counted(None, batch_size=last[0], crop_size=last[1], remat=last[2], accumulation_steps=last[3]) <= size * (1 - HEADROOM)


def choose_own(stages, devices, monkeypatch):
    """Of a recipe with these stages, not by an override, which would stay."""
    return fit_config_to_devices(load_config("best") | {"stages": stages}, devices=devices, say=lambda line: None)


def test_crops_shrink_where_nothing_else_helps(monkeypatch):
    Memory(monkeypatch, each=200_000.0)
    config, _ = choose("best", gpu(1.2 * GB, count=2))
    assert (config["stages"], config["crop_size"], config["remat"]) == ((), 64, True)
    assert config["batch_size"] % 2 == 0
    assert 0.2e9 + 100_000 * config["batch_size"] / 2 * 64**2 <= 1.2 * GB * (1 - HEADROOM)


def test_where_nothing_fits_it_says_so(monkeypatch):
    Memory(monkeypatch, fixed=3e9)
    with pytest.raises(InputError, match=r"^Nothing of this configuration fits the 0\.90 GB of Tesla T4; .*--config\.widths"):
        choose("best", gpu(GB))


def test_a_recipe_that_needs_two_images_is_not_doubled_for_many_devices(monkeypatch):
    counted = Memory(monkeypatch)
    config, _ = choose("keras_reference", gpu(8 * GB, count=8), "num_epochs=1")
    assert config["batch_size"] == 8
    assert counted.compiled[0][0] == 2, "one image has no variance"


def test_a_compiler_that_refuses_what_is_too_large_means_that_it_does_not_fit(monkeypatch):
    full = RuntimeError("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.5G of 15.75G hbm.")
    Memory(monkeypatch, error=(3 * GB, full))
    assert choose("best", Devices(1, "tpu", "TPU v5 lite", None, 3 * GB)).config["remat"]
    Memory(monkeypatch, error=(0, RuntimeError("INTERNAL: a bug")))
    with pytest.raises(RuntimeError, match="INTERNAL"):
        choose("best", gpu(GB))


def test_a_back_end_that_does_not_say_keeps_the_recipe(monkeypatch):
    said = []
    Memory(monkeypatch, error=(0, InputError("The back end tpu does not report memory needs.")))
    config, _ = choose("best", Devices(1, "tpu", "TPU v5 lite", None, GB), said=said)
    assert config == load_config("best") | {"dtype": "bfloat16"}
    assert said[-1] == "The back end tpu does not report memory needs."


def test_what_is_given_stays(monkeypatch):
    counted = Memory(monkeypatch)
    config, text = choose("best", gpu(GB, capability="8.0"), "dtype=float32", "stages=()", "batch_size=5")
    assert (config["dtype"], config["batch_size"]) == ("float32", 5)
    assert "float32 (as given)" in text
    assert not counted.compiled


def test_a_run_goes_on_as_it_began_whatever_device_comes_next(monkeypatch, tmp_path):
    counted = Memory(monkeypatch)
    began, _ = choose("best", gpu(2 * GB, capability="8.0"))
    with open_workdir(tmp_path, began):
        pass
    counted.compiled.clear()
    config, text = choose("best", CPU, "num_train_steps=400000", workdir=tmp_path)
    assert json.dumps(config) == json.dumps(began | {"num_train_steps": 400_000}), "stages as lists, as JSON gives them"
    assert f"Precision: bfloat16 (the value of the run in {tmp_path})" in text
    assert not counted.compiled
    with open_workdir(tmp_path, config):  # would raise if it were another configuration
        pass
    assert choose("best", CPU, "dtype=float32", workdir=tmp_path).config["dtype"] == "float32", "given, and open_workdir refuses it"


@pytest.mark.parametrize("size", [8 * GB, 2 * GB, 0.3 * GB])
def test_the_command_line_makes_the_configuration_that_was_chosen(size, monkeypatch):
    Memory(monkeypatch)
    options = {"devices": gpu(size, count=2, capability="8.0"), "say": lambda line: None}
    overrides = ["--config.train_dir=a folder"]
    config = load_config("best", overrides)
    text = describe_here(config, name="best", overrides=overrides, **options)
    words = shlex.split(text.splitlines()[-1])
    assert words[:5] == ["drsn-jax", "train", "--config=best", "--workdir=WORKDIR", "--config.train_dir=a folder"]
    assert load_config("best", words[4:]) == fit_config_to_devices(config, overrides=overrides, **options).config


def test_info_says_what_is_chosen_here(capsys):
    assert main(["info", "--config=demo", "--fit=here"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "Mesh: 8 device(s) along the axis `data`: cpu, cpu"
    assert out[-1] == "  drsn-jax train --config=demo --workdir=WORKDIR --config.batch_size=8"
