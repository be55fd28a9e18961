"""The precision of inference is a choice of who restores: float32, whatever a model was trained in, or bfloat16."""

import io
import json
import re
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from levels import assert_same_levels
from networks import quick_compiles, write_model  # noqa: F401
from PIL import Image

import drsn_jax
from drsn_jax.cli.main import main
from drsn_jax.config.build import make_generator
from drsn_jax.interop import export
from drsn_jax.models.generator import Generator
from drsn_jax.system.errors import InputError
from drsn_jax.weights import exported
from drsn_jax.weights.model import load_model, read_generator


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Return the path of a model that was trained in bfloat16."""
    return write_model(tmp_path_factory.mktemp("model") / "compact", "trunk=quarter", "unshuffle=1", "dtype=bfloat16")


@pytest.fixture(scope="module")
def photo(tmp_path_factory, photograph):
    """Return a pair with equal blurred and sharp images."""
    folder = tmp_path_factory.mktemp("photo")
    for kind in ("blur", "sharp"):
        (folder / kind).mkdir()
        Image.fromarray(photograph[:32, :32]).save(folder / kind / "photo.png")
    return folder / "blur" / "photo.png"


def restored(photo, output, *options):
    assert main(["restore", *map(str, options), f"--output={output}", str(photo)]) == 0
    return np.asarray(Image.open(output))


@pytest.fixture(scope="module")
def expected(model, photo):
    """Return the restored photograph in each precision, as levels."""
    _, variables, config, _ = read_generator(model)
    assert config["dtype"] == "bfloat16"
    blurred = np.asarray(Image.open(photo), np.float32)[None] / 255 * 2 - 1
    networks = {dtype: make_generator(config).clone(dtype=jnp.dtype(dtype)) for dtype in ("float32", "bfloat16")}
    made = {dtype: np.rint((jax.jit(network.apply)(variables, blurred)[0] + 1) / 2 * 255) for dtype, network in networks.items()}
    assert np.abs(made["float32"] - made["bfloat16"]).mean() > 0.01, "else the tests below see nothing"
    return made


def test_a_model_restores_in_float32_unless_bfloat16_is_asked_for(model, photo, expected, tmp_path):
    assert_same_levels(restored(photo, tmp_path / "a.png", f"--model={model}"), expected["float32"])
    assert_same_levels(restored(photo, tmp_path / "b.png", f"--model={model}", "--dtype=bfloat16"), expected["bfloat16"])
    assert_same_levels(restored(photo, tmp_path / "c.png", f"--model={model}", "--whole"), expected["float32"], share=0.02)
    image = np.asarray(Image.open(photo))
    assert_same_levels(drsn_jax.restore_image(image, model=model), expected["float32"])
    assert_same_levels(drsn_jax.restore_image(image, model=model, dtype="bfloat16"), expected["bfloat16"])
    with pytest.raises(InputError, match=r"^dtype='float16' is no precision to compute in; use one of float32, bfloat16\.$"):
        drsn_jax.restore_image(image, model=model, dtype="float16")


def test_a_score_says_its_precision_and_goes_on_in_no_other(model, photo, tmp_path, capsys):
    given = ["evaluate", f"--model={model}", *(f"--{kind}={photo.parent.parent}" for kind in ("blurred", "sharp")), "--panels=0", "--quiet"]
    scores = {}
    for dtype, options in (("float32", []), ("bfloat16", ["--dtype=bfloat16"])):
        assert main([*given, f"--output={tmp_path / dtype}", *options]) == 0
        summary = json.loads((tmp_path / dtype / "metrics.json").read_text())
        assert summary["dtype"] == summary["model"]["dtype"] == dtype
        scores[dtype] = summary["restored"]["psnr"]
    assert scores["float32"] != scores["bfloat16"]
    capsys.readouterr()
    assert main([*given, f"--output={tmp_path / 'float32'}", "--dtype=bfloat16"]) == 2
    assert "dtype" in capsys.readouterr().err


def read_program(path):
    with zipfile.ZipFile(path) as archive:
        return jax.export.deserialize(bytearray(archive.read(exported.PROGRAM))).mlir_module()


def test_an_export_is_of_the_precision_that_is_asked_for(model, photo, expected, tmp_path, capsys):
    for dtype, options in (("float32", []), ("bfloat16", ["--dtype=bfloat16"])):
        output = tmp_path / f"{dtype}.stablehlo"
        assert main(["export", f"--model={model}", f"--output={output}", f"--image={photo}", *options]) == 0
        assert ("bf16" in read_program(output)) == (dtype == "bfloat16")
        assert load_model(output).info["dtype"] == dtype
        assert_same_levels(restored(photo, tmp_path / f"{dtype}.png", f"--model={output}"), expected[dtype])
    assert restored(photo, tmp_path / "asked.png", f"--model={output}", "--dtype=bfloat16").shape == (32, 32, 3)
    capsys.readouterr()
    assert main(["restore", f"--model={output}", "--dtype=float32", str(photo)]) == 2
    message = capsys.readouterr().err
    assert "computes in bfloat16, as it was exported; omit --dtype, or export the model with --dtype=float32." in message
    assert message.count("\n") == 1


@pytest.mark.parametrize(("form", "words"), [("onnx", "does not apply to onnx"), ("compact", "does not apply to compact")])
def test_formats_without_a_choice_say_so(form, words, model, tmp_path, capsys):
    output = tmp_path / f"m.{form}"
    assert main(["export", f"--model={model}", f"--output={output}", f"--format={form}", "--dtype=bfloat16"]) == 2
    assert words in capsys.readouterr().err
    assert not output.exists()


def test_the_tolerance_is_that_of_the_exports_precision(model):
    stored = read_generator(model)
    given = {"noise": export.random_images((1, 16, 16))}
    network = {"generator": stored.generator, "variables": stored.variables, "images": given}
    exact = jax.jit(stored.generator.apply)

    def off_by(difference):
        return lambda batch: np.asarray(exact(stored.variables, batch)) + np.float32(difference)

    assert export.measure_parity(off_by(1e-5), **network)["noise"] < 1e-4
    with pytest.raises(InputError, match=r"by 0\.001 on noise"):
        export.measure_parity(off_by(1e-3), **network)
    network["generator"] = read_generator(model, dtype="bfloat16").generator
    assert export.measure_parity(off_by(0.05), **network)["noise"] == pytest.approx(0.05, rel=1e-2), "against float32"


def test_the_reference_is_computed_in_full_precision():
    seen = []

    class Spy(Generator):
        def __call__(self, blurred, train=False):
            seen.append((self.dtype, jax.config.jax_default_matmul_precision))  # pyright: ignore[reportAttributeAccessIssue]
            return blurred

    spy = Spy(dtype=jnp.bfloat16)
    export.measure_parity(lambda batch: batch, generator=spy, variables={}, images={"noise": export.random_images((1, 16, 16))})
    assert seen == [(jnp.float32, "highest")]


def test_programs_for_accelerators_multiply_float32_in_full(model):
    """By default JAX rounds to TF32 or bfloat16 there."""

    def exact(dtype, platform):
        stored = read_generator(model, dtype=dtype)
        network = {"generator": stored.generator, "variables": stored.variables}
        content = export.export_stablehlo(**network, platforms=(platform,), config=stored.config, info=stored.info)
        text = read_program(io.BytesIO(content))
        return len(re.findall("stablehlo.convolution", text)), len(re.findall("stablehlo.convolution.*HIGHEST", text))

    count, exact_ones = exact("float32", "cuda")
    assert count == exact_ones > 5
    assert exact("bfloat16", "cuda")[1] == exact("float32", "cpu")[1] == 0
