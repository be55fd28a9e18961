"""ONNX: onnxruntime computes what the model does, restore takes the file for images of any size, and others are refused in one line."""

import json
import re
import sys

import jax
import numpy as np
import pytest
import tiny
from networks import draw_variables, images, quick_compiles  # noqa: F401
from PIL import Image

from drsn_jax.cli.main import main
from drsn_jax.interop.onnx_export import convert_onnx
from drsn_jax.models.generator import Generator
from drsn_jax.restoration.core.restorer import make_restore_fn
from drsn_jax.system.errors import InputError
from drsn_jax.weights.model import load_model
from drsn_jax.weights.onnx_files import KEY, describe_onnx, read_onnx

onnx = pytest.importorskip("onnx", reason="ONNX: pip install 'drsn-jax[onnx]'")
pytest.importorskip("onnxruntime", reason="ONNX: pip install 'drsn-jax[onnx]'")
NETWORKS = {
    "DeblurGAN's": {
        **{"num_blocks": 1, "norm": "instance", "block_order": "post", "shrinkage": False, "upsampling": "transposed"},
        **{"strided_padding": "torch"},
    },
    "unet, bfloat16": {"trunk": "unet", "num_blocks": 1, "norm": "layer", "dtype": "bfloat16"},
}


@pytest.fixture(scope="module")
def converter():
    """Skip if jax2onnx is missing, or too old for this jax."""
    try:
        import jax2onnx
    except Exception as error:
        pytest.skip(f"jax2onnx 0.13 needs jax 0.10: {type(error).__name__}")
    return jax2onnx


def identity(**description):
    """Encode a file of ours that returns its image, 32x48."""
    shape = [1, 32, 48, 3]
    given, made = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in ("images", "restored"))
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["images"], ["restored"])], "identity", [given], [made])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    fields = describe_onnx(stride=8, config={"blur_folder": "blur"}, info={"step": 3}, versions={})
    onnx.helper.set_model_props(model, {KEY: json.dumps(json.loads(fields[KEY]) | description)})
    return model.SerializeToString()


@pytest.mark.parametrize("options", NETWORKS.values(), ids=NETWORKS)
def test_onnxruntime_computes_what_the_model_does(options, converter):
    generator = Generator(widths=(4, 6, 8), **options)
    variables = draw_variables(generator, images(1, generator.stride, generator.stride))
    content, exported_fn = convert_onnx(generator=generator, variables=variables, size=(16, 24), config={}, info={})
    expected = jax.jit(generator.clone(dtype=np.dtype("float32")).apply)(variables, images(1, 16, 24))
    assert np.asarray(expected).std() > 0.1
    np.testing.assert_allclose(exported_fn(np.asarray(images(1, 16, 24))), expected, atol=1e-4)
    assert b"/drsn_jax/" not in content, "no paths of this machine"


def test_export_and_restore_with_it(converter, tmp_path_factory, photograph, tmp_path, capsys):
    model, output, photo = tiny.trained(tmp_path_factory, photograph), tmp_path / "model.onnx", tmp_path / "photo.png"
    Image.fromarray(photograph[:90, :120]).save(photo)
    arguments = [f"--model={model}", f"--output={output}", f"--image={photo}", "--format=onnx", "--size=64x64"]
    assert main(["export", *arguments]) == 0
    said = capsys.readouterr().out
    assert re.search(r"model\.onnx: onnx, .* MB, images of 64x64; step 2, [\d,]+ parameters\n", said)
    differences = re.search(r"largest difference in \[-1, 1\]: (\S+) on noise, (\S+) on photo\.png\n", said)
    assert differences is not None
    assert max(map(float, differences.groups())) < 1e-4
    for name, source in (("ours", model), ("theirs", output)):
        assert main(["restore", f"--model={source}", f"--output={tmp_path / name}", "--tile=64", "--overlap=16", str(photo)]) == 0
    ours, theirs = (np.asarray(Image.open(tmp_path / name / "photo.png"), int) for name in ("ours", "theirs"))
    assert np.abs(ours - theirs).max() <= 1
    first, second = load_model(model), load_model(output)
    assert (second.config, second.stride, second.size) == (first.config, first.stride, (64, 64))
    assert second.info["step"] == 2
    assert main(["export", *arguments]) == 2
    assert "already exists" in capsys.readouterr().err


def test_a_converter_that_does_not_run_with_this_jax_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    generator = Generator(widths=(4, 6, 8), num_blocks=1, norm="none")
    with pytest.raises(
        InputError, match=r"needs jax 0\.10 \(on Python 3\.11: .*this is jax .*Use --format=stablehlo, or tflite\."
    ) as caught:
        convert_onnx(generator=generator, variables={}, size=(16, 16), config={}, info={})
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"--size=16x18 does not fit: use multiples of 4 from 16 up"):
        convert_onnx(generator=generator, variables={}, size=(16, 18), config={}, info={})


def test_images_of_other_sizes_are_padded_or_cut_into_tiles(tmp_path, rng):
    path = tmp_path / "identity.onnx"
    path.write_bytes(identity())
    model = load_model(path)
    assert [model.fit_tile(tile) for tile in (None, 768, 16)] == [32, 32, 16]
    for shape in ((5, 7, 3), (32, 48, 3), (70, 90, 3)):
        image = rng.uniform(0, 1, shape).astype(np.float32)
        np.testing.assert_allclose(make_restore_fn(model, overlap=8)(image), image, atol=1e-6)
    with pytest.raises(InputError, match=r"supports images of up to 32x48, not 40x48; use smaller tiles"):
        model.predict_fn(np.zeros((1, 40, 48, 3), np.float32))


BAD = {
    "another program's": (lambda: identity(format="other"), "not an ONNX export of drsn-jax"),
    "newer": (lambda: identity(version=2), "written by a newer drsn-jax"),
    "no configuration": (lambda: identity(config=None), "description is incomplete"),
    "cut": (lambda: identity()[:-40], "not an ONNX export of drsn-jax"),
    "empty": (lambda: b"", "not an ONNX export of drsn-jax"),
    "text": (lambda: b"a text, and nothing else", "not an ONNX export of drsn-jax"),
}


@pytest.mark.parametrize(("make", "match"), BAD.values(), ids=BAD)
def test_files_that_are_no_exports_are_refused_in_one_line(make, match, tmp_path):
    (tmp_path / "model.onnx").write_bytes(make())
    with pytest.raises(InputError, match=match) as caught:
        load_model(tmp_path / "model.onnx")
    assert "model.onnx" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_mistakes(tmp_path, capsys, monkeypatch):
    with pytest.raises(InputError, match=r"does not support tpu \(it has .*CPUExecutionProvider"):
        read_onnx(identity(), platform="tpu")
    assert main(["export", "--model=small", f"--output={tmp_path / 'model'}", "--format=onnx"]) == 2
    assert "must end in .onnx" in capsys.readouterr().err
    assert main(["export", "--model=small", f"--output={tmp_path / 'm.onnx'}", "--format=onnx", "--platforms=cpu"]) == 2
    assert "--platforms does not apply to onnx" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"need onnxruntime .*pip install 'drsn-jax\[onnx\]'"):
        read_onnx(identity())
