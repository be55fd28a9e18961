"""`drsn-jax convert` with Keras files, both ways; and files that are damaged, foreign, misfitting or malicious."""

import argparse
import io
import json
import os
import zipfile

os.environ.setdefault("KERAS_BACKEND", "jax")  # before keras is imported

import jax
import numpy as np
import pytest
from keras_step import CRITIC, GENERATOR
from networks import images, quick_compiles  # noqa: F401

from drsn_jax.cli import convert
from drsn_jax.system.errors import InputError
from drsn_jax.weights.checkpoints import find_checkpoint, read_checkpoint
from drsn_jax.weights.keras_files import read_layers
from drsn_jax.weights.model import load_model
from drsn_jax.weights.saved import compact_model

keras = pytest.importorskip("keras", reason="pip install 'drsn-jax[keras]'")
h5py = pytest.importorskip("h5py", reason="pip install 'drsn-jax[keras]'")
keras_models = pytest.importorskip("drsn_jax.interop.keras_models")

CROP = 32
OVERRIDES = {"widths": "4,6,8", "num_blocks": 2, "critic_widths": "4,6,8", "dense_features": 16, "crop_size": CROP}


def run(path, output, *, critic=None, config="keras_reference", **changes):
    parser = argparse.ArgumentParser()
    convert.declare(parser)
    arguments = [f"--input={path}", f"--output={output}", f"--config={config}", *([f"--critic={critic}"] if critic else [])]
    arguments = parser.parse_args(arguments)
    arguments.overrides = [f"--config.{key}={value}" for key, value in (OVERRIDES | changes).items()] if path.is_file() else []
    assert convert.run(arguments) == 0
    return output


def scramble(model, seed):
    rng = np.random.default_rng(seed)
    model.set_weights([rng.uniform(0.1, 0.5, w.shape).astype(np.float32) * rng.choice([1, 1, 1, -1]) for w in model.get_weights()])
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_variance.assign(keras.ops.absolute(layer.moving_variance) + 1.0)
    return model


@pytest.fixture(scope="module")
def models():
    """Make networks with different weights in every layer."""
    generator = keras_models.make_generator(**GENERATOR | {"num_blocks": 2})
    return scramble(generator, 0), scramble(keras_models.make_critic(**CRITIC, image_size=CROP), 1)


@pytest.fixture(scope="module")
def files(models, tmp_path_factory):
    """One folder with both networks in every layout that Keras writes; .h5 is that of Keras 2, whose weights file is one of its groups."""
    folder = tmp_path_factory.mktemp("keras")
    for name, model in zip(("generator", "critic"), models, strict=True):
        for suffix in (".keras", ".h5"):
            model.save(folder / f"{name}{suffix}")
        model.save_weights(folder / f"{name}.weights.h5")
        with h5py.File(folder / f"{name}.h5") as whole, h5py.File(folder / f"{name}_weights_of_keras2.h5", "w") as weights:
            for key in whole["model_weights"]:
                whole.copy(f"model_weights/{key}", weights)
            weights.attrs.update(whole["model_weights"].attrs)
    return folder


@pytest.fixture(scope="module")
def converted(files, tmp_path_factory):
    """Both networks as a model of ours."""
    return run(files / "generator.keras", tmp_path_factory.mktemp("ours") / "model", critic=files / "critic.h5")


def predict(model, batch):
    return keras.ops.convert_to_numpy(model(np.asarray(batch), training=False))


@pytest.mark.parametrize("suffix", [".weights.h5", ".h5", "_weights_of_keras2.h5"])
def test_every_layout_of_keras_holds_the_same_layers(files, suffix):
    for name in ("generator", "critic"):
        expected, layers = read_layers(files / f"{name}.keras"), read_layers(files / f"{name}{suffix}")
        assert len(layers) == len(expected) == len([n for n in layers if n.arrays])
        for kind in (4, 2, 1):
            theirs, ours = ([layer.arrays for layer in group if layer.arrays[0].ndim == kind] for group in (expected, layers))
            jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_a_converted_model_restores_as_keras_does(models, converted):
    model = load_model(converted)
    batch = images(1, 24, 40, seed=2)
    np.testing.assert_allclose(np.asarray(model.predict_fn(batch)), predict(models[0], batch), atol=1e-5)
    assert model.config["widths"] == [4, 6, 8]
    assert model.info["step"] == 0


def test_the_checkpoint_holds_the_critic_and_a_whole_state(models, converted):
    fields, _ = read_checkpoint(find_checkpoint(converted), ("critic_params", "critic_stats", "critic_opt_state", "generator_opt_state"))
    np.testing.assert_array_equal(fields["critic_params"]["dense1"]["kernel"], models[1].get_layer("dense1").get_weights()[0])
    np.testing.assert_array_equal(fields["critic_stats"]["norm3"]["var"], models[1].get_layer("norm3").get_weights()[3])
    assert jax.tree.leaves(fields["critic_opt_state"])


@pytest.mark.parametrize("suffixes", [(".keras", ".weights.h5"), (".weights.h5", ".keras")])
def test_there_and_back_is_the_same(models, converted, tmp_path, suffixes):
    paths = [tmp_path / f"{name}{suffix}" for name, suffix in zip(("generator", "critic"), suffixes, strict=True)]
    run(converted, paths[0], critic=paths[1])
    for path, model in zip(paths, models, strict=True):
        if path.suffix == ".keras":
            again = keras.saving.load_model(path)
        else:
            again = keras.models.clone_model(model)
            again.load_weights(path)
        jax.tree.map(np.testing.assert_array_equal, again.get_weights(), model.get_weights())


def test_automatic_names_are_counted_past_nine(tmp_path):
    """As a reference with Keras' own layer names has them: conv2d, conv2d_1, ..., conv2d_10, which sort otherwise as text."""
    inputs = x = keras.Input((8, 8, 3))
    for i in range(12):
        x = keras.layers.Conv2D(3, 3, padding="same", bias_initializer=keras.initializers.Constant(i))(x)
    model = keras.Model(inputs, x)
    model.save_weights(tmp_path / "a.weights.h5")
    model.save(tmp_path / "a.h5")
    for name in ("a.weights.h5", "a.h5"):
        assert [layer.arrays[1][0] for layer in read_layers(tmp_path / name)] == list(range(12))


def test_two_classes_of_one_kind_have_no_order_in_keras_3_files(tmp_path):
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(3, 3, padding="same")(keras.layers.Conv2DTranspose(3, 3, padding="same")(inputs))
    model = keras.Model(inputs, x)
    model.save_weights(tmp_path / "a.weights.h5")
    model.save(tmp_path / "a.h5")
    with pytest.raises(InputError, match="the order of layers"):
        read_layers(tmp_path / "a.weights.h5")
    assert [layer.name.startswith("conv2d_transpose") for layer in read_layers(tmp_path / "a.h5")] == [True, False]


# What is refused: one line, nothing written


def refused(path, tmp_path, **options):
    output = tmp_path / "out" / "model"
    output.parent.mkdir(exist_ok=True)
    with pytest.raises(InputError) as caught:
        run(path, output, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    assert list(output.parent.iterdir()) == [], "something was written"
    return message


def test_a_compact_model_converts_but_has_no_critic_to_write(converted, tmp_path):
    compact_model(converted, tmp_path / "compact", training=False)
    assert run(tmp_path / "compact", tmp_path / "generator.weights.h5").exists()
    with pytest.raises(InputError, match="compact has no layer"):
        run(tmp_path / "compact", tmp_path / "again.weights.h5", critic=tmp_path / "critic.weights.h5")
    assert not (tmp_path / "again.weights.h5").exists()


def test_a_misfit_names_the_layer_and_both_shapes(files, tmp_path):
    message = refused(files / "generator.h5", tmp_path, widths="4,6,10")
    assert "down2" in message
    assert "kernel of 3x3x6x8" in message
    assert "3x3x6x10" in message
    assert "--config.KEY" in message


def test_a_network_of_other_depth_or_kind_is_counted(files, tmp_path):
    assert "10 layers of kind convolution, the last conv2d_9; the configuration has 12" in refused(
        files / "generator.weights.h5", tmp_path, num_blocks=3
    )
    assert "critic.keras" in refused(files / "critic.keras", tmp_path)
    assert "dense layer" in refused(files / "generator.weights.h5", tmp_path, shrinkage=False)
    assert "layer" in refused(files / "generator.h5", tmp_path, critic=files / "generator.h5")
    assert "dense1 has a kernel of 64x16" in refused(files / "generator.h5", tmp_path, critic=files / "critic.h5", crop_size=64)


@pytest.mark.parametrize("changes", [{"trunk": "unet"}, {"norm": "instance"}, {"upsampling": "transposed"}])
def test_what_keras_has_no_form_of_is_not_written(files, tmp_path, changes):
    from drsn_jax.config.build import make_generator
    from drsn_jax.config.files import load_config
    from drsn_jax.interop.keras import keras_options

    config = load_config("keras_reference", [f"--config.{key}={value}" for key, value in changes.items()])
    with pytest.raises(InputError, match="has no Keras form"):
        keras_options(make_generator(config))


@pytest.mark.parametrize("name", ["generator.keras", "generator.weights.h5", "generator.h5"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9])
def test_a_truncated_file_is_refused(files, tmp_path, name, share):
    path = tmp_path / name
    content = (files / name).read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert str(path) in refused(path, tmp_path)


@pytest.mark.parametrize("name", ["generator.keras", "generator.weights.h5", "generator_weights_of_keras2.h5"])
def test_random_damage_ends_in_one_line_or_in_weights(files, tmp_path, name):
    content, rng = (files / name).read_bytes(), np.random.default_rng(0)
    for i in range(40):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content) if i % 2 else 4096, 20):
            damaged[place] = rng.integers(256)
        path = tmp_path / name
        path.write_bytes(damaged)
        message = ""
        try:
            assert read_layers(path)
        except InputError as error:
            message = str(error)
        assert "\n" not in message


def edit(files, tmp_path, change, name="generator.weights.h5"):
    path = tmp_path / name
    path.write_bytes((files / name).read_bytes())
    with h5py.File(path, "r+") as file:
        change(file)
    return path


FIRST = "layers/conv2d/vars"


def relink(file, link):
    del file[FIRST]["0"]
    file[FIRST]["0"] = link


def with_dataset(file, **options):
    del file[FIRST]["0"]
    file[FIRST].create_dataset("0", **options)


MALICIOUS = {
    "external link": (lambda f: relink(f, h5py.ExternalLink("other.h5", "/secret")), "ExternalLink"),
    "soft link": (lambda f: relink(f, h5py.SoftLink("/layers/conv2d/vars/1")), "SoftLink"),
    "external storage": (lambda f: with_dataset(f, shape=(1,), dtype="f4", external=[("/etc/hostname", 0, 4)]), "another file"),
    "object references": (lambda f: with_dataset(f, shape=(1,), dtype=h5py.ref_dtype), "floating point"),
    "text": (lambda f: with_dataset(f, data=["kernel"], dtype=h5py.string_dtype()), "floating point"),
    "a declared terabyte": (lambda f: with_dataset(f, shape=(2**38,), dtype="f4", chunks=(1024,), fillvalue=0), "more than"),
    "a missing kernel": (lambda f: f[FIRST].__delitem__("0"), "the configuration has"),
    "no layers": (lambda f: f.__delitem__("layers"), "holds no layer"),
    "not a number": (lambda f: f[FIRST]["0"].__setitem__((0, 0, 0, 0), np.nan), "not finite"),
}


@pytest.mark.parametrize("case", MALICIOUS)
def test_a_malicious_or_malformed_file_is_refused(files, tmp_path, case):
    change, sign = MALICIOUS[case]
    assert sign in refused(edit(files, tmp_path, change), tmp_path)


def test_a_negative_variance_is_refused(files, tmp_path):
    def change(file):
        file["layers/batch_normalization_1/vars/3"][0] = -1.0

    assert "variance below 0" in refused(edit(files, tmp_path, change), tmp_path)


def test_legacy_attributes_that_point_elsewhere_are_refused(files, tmp_path):
    def change(file):
        file["stem"].attrs["weight_names"] = [b"../../head/kernel", b"stem/bias"]

    assert "is missing from it" in refused(edit(files, tmp_path, change, "generator_weights_of_keras2.h5"), tmp_path)


def test_nothing_in_the_configuration_of_a_keras_file_is_run(files, tmp_path):
    """A Lambda layer carries code, a custom object names it: neither is looked at, so the weights are read all the same."""
    evil = tmp_path / "evil.keras"
    with zipfile.ZipFile(files / "generator.keras") as source, zipfile.ZipFile(evil, "w") as target:
        target.writestr("model.weights.h5", source.read("model.weights.h5"))
        target.writestr("config.json", json.dumps({"class_name": "Lambda", "module": "os", "config": {"function": "not to be read"}}))
    assert len(read_layers(evil)) == len(read_layers(files / "generator.keras"))


def test_an_archive_without_weights_or_with_a_bomb_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "empty.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
    assert "holds no model.weights.h5" in refused(path, tmp_path)
    monkeypatch.setattr("drsn_jax.weights.keras_files.MAX_BYTES", 2**20)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.weights.h5", bytes(2**22))
    assert "unpacks to more than" in refused(path, tmp_path)


def test_a_model_inside_a_model_is_refused(models, tmp_path):
    outer = keras.Sequential([keras.Input((CROP, CROP, 3)), models[0], models[1]])
    outer.save_weights(tmp_path / "both.weights.h5")
    assert "model inside the model" in refused(tmp_path / "both.weights.h5", tmp_path)


def test_nothing_is_overwritten_and_names_are_checked_first(files, converted, tmp_path):
    for output, sign in ((tmp_path / "g.npz", "cannot read weights from a file called"), (files / "generator.keras", "exists")):
        before = output.read_bytes() if output.exists() else None
        with pytest.raises(InputError, match=sign):
            run(converted, output)
        assert (output.read_bytes() if output.exists() else None) == before
    with pytest.raises(InputError, match="exists"):
        run(files / "generator.keras", converted)
    np.savez(tmp_path / "weights.npz", a=np.zeros(1))
    with pytest.raises(InputError, match="does not have the name of a weight file"):
        run(tmp_path / "weights.npz", tmp_path / "model")


def test_a_failing_save_leaves_nothing(files, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("drsn_jax.run.checkpoint.Checkpoints.save", fail)
    assert "No space left" in refused(files / "generator.keras", tmp_path)


def test_bytes_that_are_no_archive_and_no_hdf5_are_refused(tmp_path):
    path = tmp_path / "weights.h5"
    path.write_bytes(io.BytesIO(b"\x80\x04cos\nsystem\n").getvalue())
    assert "no Keras file" in refused(path, tmp_path)
