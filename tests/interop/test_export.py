"""Exports: they compute what the model does at every size, choose by the platform they are for, and are refused in one line otherwise."""

import argparse
import dataclasses
import io
import json
import re
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from networks import draw_variables, images, quick_compiles  # noqa: F401
from PIL import Image

from drsn_jax.cli import export as command
from drsn_jax.cli.main import main
from drsn_jax.config.build import make_generator
from drsn_jax.config.files import load_config, to_plain
from drsn_jax.interop import export
from drsn_jax.models.generator import Generator
from drsn_jax.system.errors import InputError
from drsn_jax.weights import exported
from drsn_jax.weights.model import load_model

NETWORKS = {
    "unet": {"trunk": "unet", "num_blocks": 1, "norm": "none"},
    "quarter, batch norm": {"num_blocks": 1},
    "DeblurGAN's": {
        **{"num_blocks": 1, "norm": "instance", "block_order": "post", "shrinkage": False, "upsampling": "transposed"},
        **{"strided_padding": "torch"},
    },
    "unshuffled, layer norm": {"trunk": "unet", "num_blocks": 1, "norm": "layer", "threshold_norm": "layer", "unshuffle": 4},
}


def drawn(**options):
    generator = Generator(widths=(4, 6, 8), **options)
    return generator, draw_variables(generator, images(1, generator.stride, generator.stride))


def pack(generator, variables, platforms=("cpu", "cuda", "tpu")):
    config = to_plain(load_config("default", [])) | {"widths": generator.widths}
    return export.export_stablehlo(generator=generator, variables=variables, platforms=platforms, config=config, info={"step": 3})


@pytest.fixture(scope="module")
def packed():
    return pack(*drawn(trunk="unet", num_blocks=1, norm="none"))


@pytest.fixture(scope="module")
def model(tmp_path_factory, photograph):
    return tiny.trained(tmp_path_factory, photograph)


def run_command(*arguments):
    parser = argparse.ArgumentParser()
    command.declare(parser)
    return command.run(parser.parse_args([str(argument) for argument in arguments]))


@pytest.mark.parametrize("options", NETWORKS.values(), ids=NETWORKS)
def test_an_export_computes_what_the_model_does_at_every_size(options):
    generator, variables = drawn(**options)
    exported_fn, stride = export.load_exported_fn(pack(generator, variables)), generator.stride
    for batch, height, width in ((1, 4, 4), (2, 5, 7)):
        inputs = images(batch, height * stride, width * stride)
        expected = np.asarray(jax.jit(generator.apply)(variables, inputs))
        assert expected.std() > 0.1
        np.testing.assert_allclose(exported_fn(inputs), expected, atol=1e-5)
    for wrong in (images(1, 4 * stride, 4 * stride + 2), images(1, 4 * stride, 3 * stride)):
        with pytest.raises(ValueError, match="shape"):
            exported_fn(wrong)


def program_text(content):
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return jax.export.deserialize(bytearray(archive.read(exported.PROGRAM))).mlir_module()


def convolutions(text):
    """Return the padding of those of stride 1: none for VALID, 0101 for the 2x2 ones of a folded upsampling."""
    return {re.sub(r"\D", "", window) for window in re.findall(r"window = \{([^}]*)\}", text) if not re.search("stride|dilate", window)}


def test_each_platform_gets_its_own_form_of_the_convolutions():
    """backend asks which platform runs here; an export for others must not take that answer."""
    network = drawn(num_blocks=1)
    cpu, others = {"0101", "1111", "3333"}, {"", "1111"}  # after upsampling the others pad the doubled map by one pixel
    assert convolutions(program_text(pack(*network, ("cpu",)))) == cpu
    assert convolutions(program_text(pack(*network, ("cuda",)))) == others
    assert convolutions(program_text(pack(*network, ("tpu", "cuda")))) == others
    assert convolutions(program_text(pack(*network))) == cpu | others


def test_the_file_says_what_it_is(packed):
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        description = json.loads(archive.read("export.json"))
        assert archive.testzip() is None
        weights = [name for name in archive.namelist() if name.startswith("weights/params/")]
    assert description["stride"] == 4
    assert description["platforms"] == ["cpu", "cuda", "tpu"]
    assert description["config"]["trunk"] == "unet"
    assert description["info"] == {"step": 3}
    assert description["jax"] == jax.__version__
    assert "weights/params/head/conv/kernel.npy" in weights
    assert str(Path(__file__).parents[2]).encode() not in packed, "no paths of this machine"
    assert packed == pack(*drawn(trunk="unet", num_blocks=1, norm="none")), "the same bytes again"


def test_the_recipe_of_the_docstring_needs_no_drsn_jax(packed):
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        variables = {}
        for name in archive.namelist():
            if name.startswith("weights/"):
                *folders, leaf = name.removeprefix("weights/").removesuffix(".npy").split("/")
                tree = variables
                for folder in folders:
                    tree = tree.setdefault(folder, {})
                tree[leaf] = np.load(io.BytesIO(archive.read(name)))
        program = jax.export.deserialize(bytearray(archive.read("generator.jax_export")))
    restored = jax.jit(program.call)(variables, images(1, 16, 20))
    np.testing.assert_allclose(restored, export.load_exported_fn(packed)(images(1, 16, 20)), atol=1e-6)


# The command


def test_export_and_restore_with_it(model, photograph, tmp_path, capsys):
    photo, output = tmp_path / "photo.png", tmp_path / "model.stablehlo"
    Image.fromarray(photograph[:90, :120]).save(photo)
    assert run_command(f"--model={model}", f"--output={output}", f"--image={photo}") == 0
    said = capsys.readouterr().out
    assert re.search(r"stablehlo for cpu, cuda, tpu, .* MB, sizes in multiples of 8 from 32 up; step 2, [\d,]+ parameters\n", said)
    differences = re.search(r"largest difference in \[-1, 1\]: (\S+) on noise, (\S+) on photo\.png\n", said)
    assert differences is not None
    assert max(map(float, differences.groups())) < 1e-5
    for name, source in (("ours", model), ("theirs", output)):
        assert main(["restore", f"--model={source}", f"--output={tmp_path / name}", "--tile=64", "--overlap=16", str(photo)]) == 0
    ours, theirs = (np.asarray(Image.open(tmp_path / name / "photo.png"), int) for name in ("ours", "theirs"))
    assert np.abs(ours - theirs).max() <= 1
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    first, second = load_model(model), load_model(output, device=jax.devices()[1])
    assert second.predict_fn(images(1, 32, 32)).devices() == {jax.devices()[1]}
    assert second.info == first.info | {"path": str(output)}
    assert second.config == first.config
    assert second.stride == first.stride


def refuses(match, *arguments):
    with pytest.raises(InputError, match=match) as caught:
        run_command(*arguments)
    assert "\n" not in str(caught.value)


def test_mistakes_on_the_command_line(model, tmp_path):
    output = tmp_path / "model.stablehlo"
    refuses(r"--platforms=cpu,gpu: give one or more of cpu, cuda", f"--model={model}", f"--output={output}", "--platforms=cpu,gpu")
    refuses(r"each once", f"--model={model}", f"--output={output}", "--platforms=cpu,cpu")
    refuses(r"--size applies to tflite and onnx only", f"--model={model}", f"--output={output}", "--size=64x64")
    refuses(r"does not apply to tflite", f"--model={model}", f"--output={output}", "--format=tflite", "--platforms=cpu")
    refuses(r"--size=64 is not a size", f"--model={model}", f"--output={output}", "--format=tflite", "--size=64")
    refuses(r"There is no", f"--model={tmp_path / 'none'}", f"--output={output}")
    assert not output.exists()
    output.write_text("mine")
    refuses(r"already exists; .*--overwrite", f"--model={model}", f"--output={output}")
    refuses(r"is a file; give the workdir", f"--model={output}", f"--output={tmp_path / 'other'}")
    assert output.read_text() == "mine"


def test_an_export_that_computes_something_else_is_not_written(model, tmp_path, monkeypatch):
    wrong = lambda content: lambda batch: np.asarray(batch) * 0.9  # noqa: E731
    monkeypatch.setattr(export, "load_exported_fn", wrong)
    refuses(r"differs from the model \(by .* on noise\)", f"--model={model}", f"--output={tmp_path / 'm'}")
    assert list(tmp_path.iterdir()) == []


def test_parity_counts_nan_as_a_difference():
    generator, variables = drawn(num_blocks=1)
    with pytest.raises(InputError, match=r"by nan"):
        export.measure_parity(lambda x: x * np.nan, generator=generator, variables=variables, images={"a": np.asarray(images(1, 16, 16))})


def test_the_photograph_is_cut_to_what_fits():
    photo = np.random.default_rng(0).uniform(0, 1, (90, 300, 3))
    cut = export.fit_photo(photo, stride=8)
    assert cut.shape == (1, 88, 256, 3)
    np.testing.assert_allclose(cut[0], photo[1:89, 22:278] * 2 - 1, atol=1e-6)
    assert export.fit_photo(photo, stride=8, size=(64, 64)).shape == (1, 64, 64, 3)
    assert export.fit_photo(photo, stride=8, size=(96, 96)) is None
    assert export.fit_photo(photo[:20], stride=8) is None


# Files that cannot be run


def rewritten(packed, **changes):
    """Return the archive with some entries replaced by bytes, or by a function of their bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(packed)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            change = changes.get(name.split("/")[-1].replace(".", "_"), lambda content: content)
            new.writestr(name, change(old.read(name)) if callable(change) else change)
    return buffer.getvalue()


def described(**changes):
    return lambda content: json.dumps(json.loads(content) | changes).encode()


def with_convention(content):
    return bytes(dataclasses.replace(jax.export.deserialize(bytearray(content)), calling_convention_version=5).serialize())


def calling_python(_):
    """Make a program of the same weights that calls into jaxlib by name."""
    _, variables = drawn(trunk="unet", num_blocks=1, norm="none")
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), {"params": variables["params"]})

    def solve(variables, images):
        return images + jnp.linalg.cholesky(jnp.eye(3))[0, 0]

    image = jax.ShapeDtypeStruct((1, 64, 64, 3), "float32")
    return bytes(jax.export.export(jax.jit(solve), platforms=("cpu",))(shapes, image).serialize())


BAD = {
    "newer": (lambda p: rewritten(p, export_json=described(version=2, drsn_jax="9.0")), r"written by a newer drsn-jax \(9\.0\); upgrade"),
    "another program's": (lambda p: rewritten(p, export_json=described(format="other")), r"not an export of drsn-jax"),
    "no program": (lambda p: rewritten(p, generator_jax_export=b"x" * 100), r"cannot be run: it was exported with jax .*, this is jax"),
    "too old": (
        lambda p: rewritten(p, export_json=described(jax="0.4.1"), generator_jax_export=with_convention),
        r"exported with jax 0\.4\.1, this is jax .*convention is 5.*export the model again",
    ),
    "other weights": (lambda p: rewritten(p, bias_npy=lambda c: c[:-4] + b"", kernel_npy=lambda c: c), r"damaged"),
    "a pickle in it": (lambda p: rewritten(p, bias_npy=np_object()), r"damaged \(.*pickle"),
    "native code": (lambda p: rewritten(p, generator_jax_export=calling_python), r"refused: it calls lapack_spotrf_ffi of jaxlib"),
    "no configuration": (lambda p: rewritten(p, export_json=described(config={})), r"The configuration in .* is unknown"),
    "cut": (lambda p: p[: len(p) // 2], r"not an export of drsn-jax"),
    "empty": (lambda p: b"", r"not an export of drsn-jax"),
    "text": (lambda p: b"a text, and nothing else", r"not an export of drsn-jax"),
}


def np_object():
    buffer = io.BytesIO()
    np.save(buffer, np.array([print], object), allow_pickle=True)
    return buffer.getvalue()


@pytest.mark.parametrize(("make", "match"), BAD.values(), ids=BAD)
def test_files_that_are_no_exports_are_refused_in_one_line(make, match, packed, tmp_path):
    path = tmp_path / "model.stablehlo"
    path.write_bytes(make(packed))
    with pytest.raises(InputError, match=match) as caught:
        load_model(path)
    assert "model.stablehlo" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_export_for_other_platforms(tmp_path):
    path = tmp_path / "tpu.stablehlo"
    path.write_bytes(pack(*drawn(trunk="unet", num_blocks=1, norm="none"), ("tpu",)))
    with pytest.raises(InputError, match=r"was exported for tpu, and this is cpu; .*--platforms=cpu"):
        load_model(path)


def test_an_export_for_another_platform_says_that_it_was_not_compared(model, tmp_path, capsys):
    assert run_command(f"--model={model}", f"--output={tmp_path / 'm'}", "--platforms=tpu") == 0
    assert "Parity: not checked" in capsys.readouterr().out


# TensorFlow


def save_or_skip(*arguments):
    try:
        assert run_command(*arguments, "--format=savedmodel") == 0
    except InputError as error:
        if "too old for jax" not in str(error):
            raise
        pytest.skip(str(error))


def test_saved_model_and_tflite(model, tmp_path, capfd):
    tf = pytest.importorskip("tensorflow", reason="SavedModel and TFLite: pip install 'drsn-jax[data]'")
    save_or_skip(f"--model={model}", f"--output={tmp_path / 'saved'}", "--platforms=cpu")
    assert run_command(f"--model={model}", f"--output={tmp_path / 'm.tflite'}", "--format=tflite", "--size=64x40") == 0
    said = capfd.readouterr().out
    assert re.search(r"saved: savedmodel for cpu, .* sizes in multiples of 8", said)
    assert re.search(r"m\.tflite: tflite, .* images of 64x40", said)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.tflite", "saved"], "nothing temporary is left"
    predict_fn, saved = load_model(model).predict_fn, tf.saved_model.load(str(tmp_path / "saved")).signatures["serving_default"]
    for shape in ((2, 40, 48), (1, 64, 32)):
        inputs = images(*shape)
        np.testing.assert_allclose(saved(images=tf.constant(np.asarray(inputs)))["restored"], predict_fn(inputs), atol=1e-5)
    refuses(r"--size=60x64 does not fit: use multiples of 8 from 32", f"--model={model}", "--output=m", "--format=tflite", "--size=60x64")


def test_a_saved_model_that_computes_something_else_leaves_nothing(model, tmp_path, monkeypatch):
    pytest.importorskip("tensorflow", reason="SavedModel: pip install 'drsn-jax[data]'")
    monkeypatch.setattr(export, "TOLERANCES", {"float32": -1.0})
    refuses(
        r"differs from the model|too old for jax",
        f"--model={model}",
        f"--output={tmp_path / 's'}",
        "--format=savedmodel",
        "--platforms=cpu",
    )
    assert list(tmp_path.iterdir()) == []


def test_the_configuration_stored_makes_the_generator_again(packed, tmp_path):
    (tmp_path / "m").write_bytes(packed)
    assert make_generator(load_model(tmp_path / "m").config).stride == 4
