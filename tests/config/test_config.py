"""Configurations: found from anywhere, overridden key by key, and every mistake told in one line with what would be right."""

import dataclasses
import re
from pathlib import Path

import pytest

from drsn_jax.config import files as configurations
from drsn_jax.config.build import make_critic, make_generator, make_stages, make_training
from drsn_jax.config.files import config_names, load_config
from drsn_jax.config.values import BLURRING, CHOICES, FRACTIONS, NOT_NEGATIVE, POSITIVE
from drsn_jax.data.synthesis.photos import DEMO_HELD_OUT, DEMO_TRAINING
from drsn_jax.models.generator import Generator
from drsn_jax.planning.description import count_parameters
from drsn_jax.system.errors import InputError
from drsn_jax.training.spec import StepSpec

ROOT = Path(__file__).parents[2]
SHIPPED = ["base", "best", "default", "demo", "keras_reference", "paper", "small"]


def refused(name_or_path, *overrides):
    """Return the message of a refusal: one line, with a full stop."""
    with pytest.raises(InputError) as caught:
        load_config(str(name_or_path), [f"--config.{override}" for override in overrides])
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


def write(path, body):
    path.write_text("from drsn_jax.config import base_config\nfrom ml_collections import ConfigDict\n\n" + body)
    return path


def test_these_ship():
    assert config_names() == SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_by_name_and_as_a_path_from_another_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    by_name = load_config(name)
    assert load_config(str(ROOT / "configs" / f"{name}.py")) == by_name
    (tmp_path / "mine.py").write_text((ROOT / "configs" / f"{name}.py").read_text())
    assert load_config("mine.py") == by_name
    assert load_config("./mine.py") == by_name


@pytest.mark.parametrize("name", SHIPPED)
def test_each_opens_with_its_command_and_what_to_expect(name):
    docstring = (ROOT / "configs" / f"{name}.py").read_text().split('"""')[1]
    assert f"drsn-jax train --config={name} --workdir=" in docstring
    assert "Expect" in docstring


@pytest.mark.parametrize("name", SHIPPED)
def test_each_makes_networks_and_a_step(name):
    config = load_config(name)
    stages = make_stages(config)
    if name == "keras_reference":
        with pytest.raises(InputError, match="threshold_norm=batch and a batch of 1"):
            make_training(config, num_train_steps=config["num_train_steps"])
        config |= {"batch_size": 2}
    assert make_training(config, num_train_steps=config["num_train_steps"]).generator == make_generator(config)
    assert stages[0].crop_size % make_generator(config).stride == 0


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("num_blocks=3", "num_blocks", 3),
        ("learning_rate=2e-3", "learning_rate", 2e-3),
        ("learning_rate=1", "learning_rate", 1.0),
        ("flip=False", "flip", False),
        ("flip=false", "flip", False),
        ("zero_head=True", "zero_head", True),
        ("widths=4,6,8", "widths", (4, 6, 8)),
        ("widths=(4, 6, 8)", "widths", (4, 6, 8)),
        ("critic_widths=8,", "critic_widths", (8,)),
        ("noise_variance=0,0.5", "noise_variance", (0, 0.5)),
        ("trunk=quarter", "trunk", "quarter"),
        ("train_dir=/data/a=b, c", "train_dir", "/data/a=b, c"),
        ("stages=()", "stages", ()),
        ("stages=((0,64,4),(10,128,2))", "stages", ((0, 64, 4), (10, 128, 2))),
    ],
)
def test_an_override_changes_its_key_and_no_other(override, key, value):
    before, after = load_config("default"), load_config("default", [f"--config.{override}"])
    assert after[key] == value
    assert type(after[key]) is type(before[key])
    assert {k: v for k, v in after.items() if k != key} == {k: v for k, v in before.items() if k != key}


def test_the_last_of_two_overrides_counts():
    assert load_config("demo", ["--config.seed=1", "--config.seed=2"])["seed"] == 2


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("lerning_rate=1", ["'lerning_rate'", "did you mean learning_rate?", "info --config=default"]),
        ("contentweight=1", ["did you mean content_weight?"]),
        ("zzzzz=1", ["'zzzzz'", "lists them all"]),
        ("widths.0=1", ["'widths.0'"]),
        ("learning_rate", ["--config.key=value"]),
        ("learning_rate=fast", ["learning_rate='fast'", "finite number", "--config.learning_rate=0.0003"]),
        ("learning_rate=nan", ["learning_rate=nan", "finite number"]),
        ("learning_rate=inf", ["learning_rate=inf"]),
        ("learning_rate=0", ["learning_rate=0.0", "more than 0"]),
        ("crop_size=64.5", ["crop_size='64.5'", "whole number"]),
        ("num_train_steps=1e3", ["whole number"]),
        ("flip=maybe", ["flip='maybe'", "True or False"]),
        ("trunk=unett", ["did you mean unet?", "quarter, unet"]),
        ("convs_per_block=3", ["use one of 1, 2"]),
        ("unshuffle=3", ["use one of 1, 2, 4"]),
        ("dtype=float16", ["did you mean bfloat16?"]),
        ("content_weight=-1", ["content_weight=-1.0 is negative", "use 0 or more"]),
        ("dropout=1", ["dropout=1.0", "less than 1"]),
        ("ema_decay=-0.1", ["ema_decay=-0.1", "at least 0"]),
        ("widths=4,6", ["widths=4,6", "three whole numbers", "64,128,256"]),
        ("widths=4,6.5,8", ["three whole numbers"]),
        ("widths=4,6,0", ["three whole numbers"]),
        ("widths=('a','b','c')", ["three whole numbers"]),
        ("critic_widths=()", ["one or more whole numbers"]),
        ("noise_variance=0.1", ["noise_variance=0.1", "is not a range", "0.0,0.002"]),
        ("noise_variance=(0.2,0.1)", ["is not a range"]),
        ("noise_variance=(-1,0)", ["is not a range"]),
        ("blur_length=(1,2,3)", ["is not a range"]),
        ("eval_noise_variances=()", ["one or more variances"]),
        ("eval_noise_variances=-0.1,0", ["-0.1,0", "each 0 or more"]),
        ("seed=4294967296", ["too large", "4294967295"]),
        ("blur_variation=-1", ["blur_variation=-1.0 is negative"]),
        ("batch_size=4", ["batch_size has no effect, since stages=", "--config.stages=()"]),
        ("crop_size=64", ["crop_size has no effect, since stages="]),
        ("frames_dir=clip", ["frames_dir has no effect with data=pairs", "--config.data=photos"]),
        ("crop_candidates=4", ["crop_candidates has no effect with data=pairs"]),
        ("blur_length=0,9", ["blur_length has no effect with data=pairs", "photos or demo", "--config.data=photos"]),
        ("middle_blocks=-1", ["middle_blocks=-1 is negative"]),
        ("jpeg_quality=80,90", ["jpeg_quality has no effect with data=pairs"]),
        ("frames_share=0.2", ["frames_share has no effect without a clip", "--config.frames_dir=FOLDER"]),
    ],
)
def test_a_mistake_is_one_line_with_what_is_right(override, words):
    message = refused("default", override)
    assert all(word in message for word in words), message


def test_number_of_steps_that_would_be_ignored():
    assert "num_train_steps has no effect, because num_epochs=300" in refused("paper", "num_train_steps=5")
    assert "adam_form has no effect with optimizer=muon" in refused("small", "adam_form=keras")
    assert "parameter_groups has no effect with optimizer=adam and weight_decay=0" in refused("demo", "parameter_groups=by_shape")
    assert load_config("small", ["--config.parameter_groups=by_shape"])["parameter_groups"] == "by_shape", "Muon without decay"
    assert "middle_blocks has no effect with trunk=quarter" in refused("paper", "middle_blocks=2")
    assert "blur_skew has no effect with data=resident" in refused("default", "data=resident", "blur_skew=2")
    assert "train_dir has no effect with data=demo" in refused("demo", "train_dir=photos")
    assert load_config("paper", ["--config.num_epochs=0", "--config.num_train_steps=5"])["num_train_steps"] == 5


@pytest.mark.parametrize("key", CHOICES)
def test_every_choice_is_open_and_no_other(key):
    source = ["--config.data=photos"] if key in BLURRING else []  # a blur for pairs is refused
    for choice in CHOICES[key]:
        assert load_config("default", [*source, f"--config.{key}={choice}"])[key] == choice
    assert f"use one of {', '.join(map(str, CHOICES[key]))} " in refused("default", f"{key}={'7' if key in INTEGERS else 'x'}")


INTEGERS = ("convs_per_block", "unshuffle")


@pytest.mark.parametrize("key", [*POSITIVE, *NOT_NEGATIVE, *FRACTIONS])
def test_every_number_has_its_bound(key):
    overrides = [f"{key}=-1"] if key not in ("crop_size", "batch_size") else [f"{key}=-1", "stages=()"]
    message = refused("default", *overrides)
    assert message.startswith(f"{key}=-1")
    assert f"--config.{key}=" in message


@pytest.mark.parametrize(
    "stages",
    ["((1,64,2),)", "((0,64,2),(0,64,2))", "((0,64,2),(-5,64,2))", "((0,64),)", "5", "((0,64.0,2),)", "((0,62,2),)", "((0,64,0),)", "None"],
)
def test_stages_that_are_none(stages):
    with pytest.raises(InputError, match=r"stages=|Crops of 62 .* multiple of 4") as caught:
        make_stages(load_config("default", [f"--config.stages={stages}"]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("def get_config(:\n", ["line 4", "SyntaxError"]),
        ("import nonexistent_module\n", ["line 4", "ModuleNotFoundError"]),
        ("x = 1\n", ["defines no get_config()"]),
        ("def get_config():\n    return {'seed': 1}\n", ["returned dict", "ConfigDict"]),
        ("def get_config():\n    return ConfigDict({'seed': 1})\n", ["lacks", "base_config"]),
        (
            "def get_config():\n    c = base_config()\n    c.lerning_rate = 1\n    return c\n",
            ["'lerning_rate'", "did you mean learning_rate?"],
        ),
        ("def get_config():\n    c = base_config()\n    c.widths = 'abc'\n    return c\n", ["line 6", "widths"]),
        ("def get_config():\n    c = base_config()\n    c.learning_rate = None\n    return c\n", ["learning_rate=None", "finite number"]),
        ("def get_config():\n    return ConfigDict(base_config().to_dict() | {'widths': 'abc'})\n", ["widths='abc'", "tuple"]),
        ("def get_config():\n    return ConfigDict(base_config().to_dict() | {'seed': '1'})\n", ["seed='1'", "whole number"]),
        ("def get_config():\n    c = base_config()\n    c.trunk = 'net'\n    return c\n", ["trunk='net'", "did you mean unet?"]),
        ("raise ValueError('two\\nlines')\n", ["line 4", "two lines"]),
    ],
)
def test_a_file_of_the_users_that_is_wrong(body, words, tmp_path):
    message = refused(write(tmp_path / "mine.py", body))
    assert all(word in message for word in words), message
    assert "mine.py" in message or "=" in message


def test_no_such_configuration(tmp_path):
    assert "did you mean demo?" in refused("demmo")
    assert "no configuration file" in refused(tmp_path / "mine.py")
    for name in ("", "configs", str(tmp_path)):
        message = refused(name)
        assert all(shipped in message for shipped in SHIPPED)


def test_every_key_is_used():
    """A key that no source reads, other than as something to be checked or compared, is an option that does nothing."""
    package = ROOT / "drsn_jax"
    skipped = {package / "config" / "files.py", package / "config" / "values.py"}
    sources = {path: path.read_text() for path in package.rglob("*.py") if path not in skipped}
    workdir = package / "run" / "workdir.py"
    sources[workdir] = re.sub(r"(FREE|KEPT)_KEYS \+?= \([^)]*\)", "", sources[workdir])  # compared only
    assert "frames_dir" not in re.sub(r"CONSEQUENCES = \{[^}]*\}", "", sources[workdir]), "they are found"
    text = "\n".join(sources.values())
    read = set(re.findall(r'"([a-z0-9_]+)"', text))
    read |= {f"{name}_weight" for name in ("adversarial", "content", "pixel", "frequency")}  # read by LossWeights._fields
    assert 'config[f"{name}_weight"] for name in LossWeights._fields' in text
    # Passed on by field.
    read |= {field.name for owner in (Generator, StepSpec) for field in dataclasses.fields(owner)}
    assert sorted(set(load_config("default")) - read) == []


def test_every_checked_key_exists():
    keys = set(load_config("default"))
    assert {*CHOICES, *POSITIVE, *NOT_NEGATIVE, *FRACTIONS} <= keys


PAPER = {
    "trunk": "quarter", "widths": (64, 128, 256), "num_blocks": 9, "block_order": "pre", "shrinkage": True, "convs_per_block": 2,
    "norm": "batch", "threshold_norm": "none", "dropout": 0.5, "output": "clip_residual", "upsampling": "nearest", "unshuffle": 1,
    "strided_padding": "keras", "kernel_init": "glorot_uniform", "zero_head": False,
    "critic": "dense", "critic_widths": (64, 64, 128, 256, 512), "dense_features": 1024, "critic_norm": "batch",
    "critic_output": "sigmoid", "lipschitz": "none", "critic_update": "joint", "fake_mode": "train", "critic_batches": "same",
    "critic_norm_in_generator_step": "batch", "critic_steps": 5,
    "content_layer": "conv3_3", "content_input": "raw", "content_weight": 100.0,
    "pixel_weight": 0.0, "frequency_weight": 0.0, "adversarial_weight": 1.0,
    "learning_rate": 1e-4, "critic_learning_rate": 1e-4, "schedule": "constant", "warmup_steps": 0, "beta1": 0.9, "critic_beta1": 0.9,
    "beta2": 0.999, "epsilon": 1e-7, "weight_decay": 0.0, "clip_norm": 0.0, "ema_decay": 0.0, "adam_form": "optax",
    "batch_size": 1, "num_epochs": 300, "stages": (), "crop_size": 256,
    "frame": "resize", "flip": True, "rotate": False, "noise_variance": (0.0, 0.0), "data": "pairs",
}  # fmt: skip
KERAS = PAPER | {
    "output": "average", "threshold_norm": "batch", "critic_update": "alternating", "fake_mode": "inference",
    "critic_norm_in_generator_step": "moving", "adam_form": "keras",
}  # fmt: skip
BEST = {
    "trunk": "unet", "norm": "none", "threshold_norm": "none", "dropout": 0.0, "shrinkage": True,
    "critic": "patch", "critic_output": "linear", "lipschitz": "gradient_penalty", "penalty_weight": 10.0, "critic_norm": "none",
    "content_layer": "conv3_3", "content_input": "imagenet", "pixel_weight": 1.0, "schedule": "cosine",
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("paper", PAPER),
        ("keras_reference", KERAS),
        ("default", BEST | {"data": "pairs", "frame": "crop", "crop_size": 256, "flip": True, "rotate": True}),
        ("demo", BEST | {"data": "demo", "flip": True}),
    ],
)
def test_the_columns_of_spec_section_5(name, column):
    config = load_config(name)
    assert {key: config[key] for key in column} == column


@pytest.mark.parametrize("name", ["default", "demo"])
def test_what_spec_section_5_gives_as_a_range(name):
    config = load_config(name)
    assert 0 < config["content_weight"] < 0.1, "a small weight"
    assert 0 < config["adversarial_weight"] < 0.1, "small"
    assert config["frequency_weight"] > 0
    assert config["ema_decay"] > 0
    assert config["warmup_steps"] > 0
    assert config["noise_variance"][1] > 0, "trained with noise"
    assert min(stage.batch_size for stage in make_stages(config)) > 1, "larger batch"


def test_best_is_default_and_grows_its_crops():
    assert load_config("best") == load_config("default")
    crops = [stage.crop_size for stage in make_stages(load_config("best"))]
    assert crops == sorted(set(crops))
    assert len(crops) > 1


def test_demo_is_small_and_holds_photographs_out_by_subject():
    config = load_config("demo")
    assert count_parameters(make_generator(config), image_size=config["crop_size"])[0] <= 500_000
    assert max(config["critic_widths"]) < max(load_config("default")["critic_widths"]), "narrow"
    assert not set(DEMO_TRAINING) & set(DEMO_HELD_OUT)
    assert {"skimage:motorcycle_left.png", "skimage:motorcycle_right.png"} <= set(DEMO_TRAINING), "the stereo pair is on one side"


@pytest.mark.parametrize(
    ("name", "generator", "critic"),
    [("paper", (12_572_931, 12_583_427), (3_096_450, 3_098_370)), ("keras_reference", (12_577_539, 12_592_643), (3_096_450, 3_098_370))],
)
def test_parameters_of_spec_section_1(name, generator, critic):
    config = load_config(name)
    assert count_parameters(make_generator(config), image_size=256) == generator
    assert count_parameters(make_critic(config), image_size=256) == critic


def test_differing_keys_leaves_free_ones_out():
    config = {"a": (1, (2, 3)), "b": 1, "c": 0}
    assert configurations.differing_keys(config, {"a": [1, [2, 3]], "b": 2, "c": 5}, free=("c",)) == {"b": (2, 1)}
    assert configurations.differing_keys(config, {"a": [1, [2, 3]], "c": 0, "d": 1}, free=()) == {"b": (None, 1), "d": (1, None)}


def test_a_users_file_is_told_of_keys_without_effect(tmp_path):
    body = "def get_config():\n    config = base_config()\n    config.batch_size = 16\n    return config\n"
    assert "batch_size has no effect, since stages=" in refused(write(tmp_path / "mine.py", body))
    fixed = body.replace("    return", "    config.stages = ()\n    return")
    assert load_config(str(write(tmp_path / "mine.py", fixed)))["batch_size"] == 16
