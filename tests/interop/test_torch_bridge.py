"""DeblurGAN's PyTorch files: the restricted reader against files written byte by byte, the network against numpy."""

import contextlib
import pickle
import struct
import zipfile

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from networks import quick_compiles  # noqa: F401
from weight_files import integers, mapping, pickled, tensor, text, write_legacy, write_safetensors, write_torch, write_zip

from drsn_jax.config.build import make_generator
from drsn_jax.config.files import load_config, to_plain
from drsn_jax.interop.torch import read_torch
from drsn_jax.system.errors import InputError
from drsn_jax.weights import torch_files
from drsn_jax.weights.tensors import read_tensors

# The network of PEERS B.2 in numpy, float64, channels last: from the description, for one image.


def conv(x, weight, bias, *, stride=1, margin=0, reflect=True):
    """weight [out in h w]; cross-correlation after padding `margin` pixels on all sides."""
    x = np.pad(x, ((margin, margin), (margin, margin), (0, 0)), mode="reflect" if reflect else "constant")
    windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], axis=(0, 1))[::stride, ::stride]
    return np.einsum("hwiuv,oiuv->hwo", windows, weight) + (0 if bias is None else bias)


def transposed_conv(x, weight, bias):
    """weight [in out 3 3]; each pixel paints its kernel at twice its place; then one row and column less at the top left."""
    h, w, _ = x.shape
    painted = np.zeros((2 * h + 2, 2 * w + 2, weight.shape[1]))
    for u in range(3):
        for v in range(3):
            painted[u : u + 2 * h : 2, v : v + 2 * w : 2] += x @ weight[:, :, u, v]
    return painted[1 : 2 * h + 1, 1 : 2 * w + 1] + (0 if bias is None else bias)


def deblurgan(state, image, *, blocks, second):
    """Compute DeblurGAN's generator in float64. `second` is the number of a block's second convolution, or None."""
    state = {name: array.astype(np.float64) for name, array in state.items()}

    def normed(x, name, relu=True):
        number = int(name.rpartition(".")[2]) + 1
        norm = f"{name.rpartition('.')[0]}.{number}"
        if f"{norm}.weight" in state:
            mean, variance, weight, bias = (state[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
            x = (x - mean) / np.sqrt(variance + 1e-5) * weight + bias
        else:
            x = (x - x.mean((0, 1))) / np.sqrt(x.var((0, 1)) + 1e-5)
        return np.maximum(x, 0) if relu else x

    def weights(name):
        return state[f"{name}.weight"], state.get(f"{name}.bias")

    x = normed(conv(image, *weights("model.1"), margin=3), "model.1")
    for name in ("model.4", "model.7"):
        x = normed(conv(x, *weights(name), stride=2, margin=1, reflect=False), name)
    for i in range(10, 10 + blocks):
        name = f"model.{i}.conv_block"
        r = normed(conv(x, *weights(f"{name}.1"), margin=1), f"{name}.1")
        if second:
            r = normed(conv(r, *weights(f"{name}.{second}"), margin=1), f"{name}.{second}", relu=False)
        x = x + r
    for i in (10 + blocks, 13 + blocks):
        x = normed(transposed_conv(x, *weights(f"model.{i}")), f"model.{i}")
    return np.clip(image + np.tanh(conv(x, *weights(f"model.{17 + blocks}"), margin=3)), -1, 1)


def make_state(*, width=4, blocks=2, second=6, norm="instance", rng=None):
    """Make a state dict of random numbers, or of zeros without `rng`."""
    state, draw = {}, (lambda *shape: rng.normal(0, 1, shape).astype(np.float32)) if rng else (lambda *shape: np.zeros(shape, np.float32))

    def add(name, shape, features, normed=True):
        state[f"{name}.weight"] = draw(*shape) / np.float32(np.sqrt(shape[1] * shape[2]))
        if norm != "batch" or not normed:
            state[f"{name}.bias"] = draw(features)
        head, _, number = name.rpartition(".")
        if normed and norm != "instance":
            parts = {"running_mean": draw(features), "running_var": np.abs(draw(features)) / 100 + 1e-4}
            parts |= {"weight": draw(features) / 20, "bias": draw(features)} if norm == "batch" else {}
            state.update({f"{head}.{int(number) + 1}.{part}": value for part, value in parts.items()})
            state[f"{head}.{int(number) + 1}.num_batches_tracked"] = np.array(7)

    add("model.1", (width, 3, 7, 7), width)
    for name, into in (("model.4", width), ("model.7", 2 * width)):
        add(name, (2 * into, into, 3, 3), 2 * into)
    for i in range(10, 10 + blocks):
        for number in (1, second) if second else (1,):
            add(f"model.{i}.conv_block.{number}", (4 * width, 4 * width, 3, 3), 4 * width)
    for i, into in ((10 + blocks, 4 * width), (13 + blocks, 2 * width)):
        add(f"model.{i}", (into, into // 2, 3, 3), into // 2)
    add(f"model.{17 + blocks}", (3, width, 7, 7), 3, normed=False)
    return state


def restored(path, images):
    """Return the restoration by our generator, and the configuration's changes."""
    found = read_torch(path)
    generator = make_generator(to_plain(load_config("default", [])) | found.changes)
    expected = jax.eval_shape(generator.init, jax.random.key(0), images)
    for ours, theirs in ((found.params, expected["params"]), (found.batch_stats, expected.get("batch_stats", {}))):
        assert jax.tree.map(np.shape, ours) == jax.tree.map(np.shape, dict(theirs))
    variables = {"params": found.params, "batch_stats": found.batch_stats}
    return np.asarray(jax.jit(generator.apply)(variables, images)), found.changes


KINDS = {
    "two, dropout": ({"second": 6}, {"convs_per_block": 2, "dropout": 0.5, "norm": "instance"}),
    "two, no dropout": ({"second": 5, "blocks": 3}, {"convs_per_block": 2, "dropout": 0.0, "norm": "instance", "num_blocks": 3}),
    "one, statistics that are not used": ({"second": None, "norm": "tracked"}, {"convs_per_block": 1, "dropout": 0.5, "norm": "instance"}),
    "two, batch norm": ({"second": 6, "norm": "batch"}, {"convs_per_block": 2, "norm": "batch"}),
}
FORMATS = {
    "zip": lambda path, state: write_torch(path, state),
    "legacy, module.": lambda path, state: write_torch(path, {f"module.{name}": array for name, array in state.items()}, legacy=True),
    "zip, nested": lambda path, state: write_torch(path, state, nested="state_dict"),
    "legacy, nested": lambda path, state: write_torch(path, state, nested="generator", legacy=True),
}


@pytest.mark.parametrize(("kind", "form"), list(zip(KINDS, FORMATS, strict=True)))
def test_our_generator_computes_what_numpy_does(kind, form, tmp_path, rng):
    options, changes = KINDS[kind]
    state = make_state(**options, rng=rng)
    image = rng.uniform(-1, 1, (16, 12, 3)).astype(np.float32)
    seen, found = restored(FORMATS[form](tmp_path / "net_G.pth", state), image[None])
    expected = deblurgan(state, image, blocks=options.get("blocks", 2), second=options["second"])
    assert (np.abs(expected) < 1).mean() > 0.1, "not all is clipped"
    np.testing.assert_allclose(seen[0], expected, atol=1e-5)
    assert found.items() >= changes.items()
    assert found["widths"] == (4, 8, 16)
    assert found.keys() <= to_plain(load_config("default", [])).keys()


def test_safetensors_and_half_precision_are_read_too(tmp_path, rng):
    state = make_state(rng=rng)
    plain = read_tensors(write_safetensors(tmp_path / "net.safetensors", state))
    half = read_tensors(write_torch(tmp_path / "half.pth", {name: array.astype(np.float16) for name, array in state.items()}))
    brain = read_tensors(write_safetensors(tmp_path / "brain.safetensors", state, "BF16"))
    for name, array in state.items():
        np.testing.assert_array_equal(plain[name], array)
        np.testing.assert_array_equal(half[name], array.astype(np.float16))
        np.testing.assert_allclose(brain[name], array, rtol=2**-7)
        assert {plain[name].dtype, half[name].dtype, brain[name].dtype} == {np.dtype("float32")}
    np.testing.assert_array_equal(read_torch(tmp_path / "net.safetensors").params["head"]["conv"]["bias"], state["model.19.bias"])


@pytest.mark.parametrize(("second", "count"), [(6, 11_378_179), (None, 6_067_459)])
def test_parameters_of_the_published_networks(second, count, tmp_path):
    state = make_state(width=64, blocks=9, second=second)
    path = write_torch(tmp_path / "net_G.pth", {name: array.astype(np.float16) for name, array in state.items()})
    found = read_torch(path)
    assert sum(leaf.size for leaf in jax.tree.leaves(found.params)) == count
    assert found.changes["num_blocks"] == 9
    assert found.changes["shrinkage"] is False


def test_views_keep_their_offset_and_strides(tmp_path):
    numbers = np.arange(24, dtype=np.float32)
    program = b"\x80\x02" + mapping({"a": tensor("0", "FloatStorage", 24, (3, 3, 2), (1, 4, 12), 1)}) + b"."
    legacy = b"\x80\x02" + mapping({"a": tensor("0", "FloatStorage", 24, (3, 3, 2), (1, 4, 12), 1, legacy=True)}) + b"."
    expected = numbers.reshape(2, 3, 4).transpose(2, 1, 0)[1:]
    for path in (write_zip(tmp_path / "a.pth", program, {"0": numbers}), write_legacy(tmp_path / "b.pth", legacy, {"0": numbers})):
        np.testing.assert_array_equal(read_tensors(path)["a"], expected)


# What must not happen


def one_line(caught):
    assert "\n" not in str(caught.value)
    return str(caught.value)


class Attack:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return eval, (f"open({str(self.marker)!r}, 'w')",)


SYSTEM_CALL = b"\x80\x02cposix\nsystem\n(" + text("touch MARKER") + b"tR."
HIDDEN = b"\x80\x02}(" + text("model.1.weight") + b"cposix\nsystem\n(" + text("touch MARKER") + b"tRu."
BY_INST = b"\x80\x02(" + text("touch MARKER") + b"iposix\nsystem\n."
STACKED = b"\x80\x04\x8c\x05posix\x8c\x06system\x93(" + text("touch MARKER") + b"tR."


@pytest.mark.parametrize("program", [SYSTEM_CALL, HIDDEN, BY_INST, STACKED])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_malicious_pickle_is_not_run(program, legacy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickle.loads(program)  # the attack is one: what an unpickler that admits everything does
    assert (tmp_path / "MARKER").exists()
    (tmp_path / "MARKER").unlink()
    with pytest.raises(InputError, match=r"net\.pth is refused: it uses 'posix.system', .*not executed") as caught:
        read_torch((write_legacy if legacy else write_zip)(tmp_path / "net.pth", program, {}))
    one_line(caught)
    assert not (tmp_path / "MARKER").exists()


def test_a_whole_pickled_network_or_a_plain_pickle_is_refused_by_name(tmp_path):
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Attack(tmp_path / "MARKER")))
    with pytest.raises(InputError, match=r"uses 'builtins.eval'"):
        read_torch(tmp_path / "plain.pkl")
    (tmp_path / "list.pkl").write_bytes(pickle.dumps([1, 2, 3]))
    with pytest.raises(InputError, match=r"is a pickle, but not one of torch.save"):
        read_torch(tmp_path / "list.pkl")
    whole = write_zip(tmp_path / "whole.pth", b"\x80\x02cmodels.networks\nResnetGenerator\n)\x81}b.", {})
    with pytest.raises(InputError, match=r"'models.networks.ResnetGenerator'.*state_dict"):
        read_torch(whole)
    assert not (tmp_path / "MARKER").exists()


def test_what_is_admitted_cannot_be_changed_from_inside(tmp_path):
    """BUILD sets attributes of whatever is on the stack."""
    before = dict(vars(torch_files._Mapping)), torch_files._Unpickler._tensor.__defaults__
    for name in (b"collections\nOrderedDict\n", b"torch._utils\n_rebuild_tensor_v2\n", b"torch\nFloatStorage\n", b"torch\nSize\n"):
        program = b"\x80\x02c" + name + b"(N}" + text("__defaults__") + integers(1) + b"stb."
        with pytest.raises(InputError):
            read_tensors(write_zip(tmp_path / "net.pth", program, {}))
    assert (dict(vars(torch_files._Mapping)), torch_files._Unpickler._tensor.__defaults__) == before


LYING = {
    "beyond its storage": tensor("0", "FloatStorage", 4, (2, 3)),
    "beyond by its offset": tensor("0", "FloatStorage", 4, (4,), offset=1),
    "beyond by its strides": tensor("0", "FloatStorage", 4, (2, 2), (3, 1)),
    "a storage larger than its file": tensor("0", "FloatStorage", 400, (20, 20)),
    "one number repeated without end": tensor("0", "FloatStorage", 4, (1000, 1000), (0, 0)),
    "negative": tensor("0", "FloatStorage", 4, (2,), (-1,), 1),
    "no such storage": tensor("1", "FloatStorage", 4, (4,)),
}


@pytest.mark.parametrize("entry", LYING.values(), ids=LYING)
def test_tensors_that_lie_about_their_numbers(entry, tmp_path):
    path = write_zip(tmp_path / "net.pth", b"\x80\x02" + mapping({"a": entry}) + b".", {"0": np.zeros(4, np.float32)})
    with pytest.raises(InputError, match=r"net\.pth is damaged"):
        read_tensors(path)


def test_files_that_would_fill_the_memory_are_refused(tmp_path):
    memo = write_zip(tmp_path / "memo.pth", b"\x80\x02}r" + struct.pack("<I", 0xFFFFFFF0) + b".", {})
    with pytest.raises(InputError, match=r"numbers more objects"):
        read_tensors(memo)
    length = write_zip(tmp_path / "length.pth", b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"x.", {})
    with pytest.raises(InputError, match=r"damaged"):
        read_tensors(length)
    packed = write_zip(tmp_path / "packed.pth", pickled({"a": np.zeros(9)}), {"0": np.zeros(9)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match=r"compressed"):
        read_tensors(packed)
    (tmp_path / "header.safetensors").write_bytes(struct.pack("<Q", 1 << 50) + b"{}")
    with pytest.raises(InputError, match=r"header"):
        read_tensors(tmp_path / "header.safetensors")


@pytest.fixture(scope="module")
def small_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    tensors = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.arange(3)}
    files = [write_torch(folder / "z.pth", tensors), write_torch(folder / "l.pth", tensors, legacy=True)]
    return [path.read_bytes() for path in [*files, write_safetensors(folder / "s.safetensors", tensors)]]


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_file_cut_anywhere_is_one_line(which, small_files, tmp_path):
    content = small_files[which]
    for length in {*range(0, len(content) - 1, 7), len(content) - 1}:
        (tmp_path / "cut.pth").write_bytes(content[:length])
        with pytest.raises(InputError, match=r"cut\.pth") as caught:
            read_tensors(tmp_path / "cut.pth")
        one_line(caught)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(which=st.integers(0, 2), changes=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=4))
def test_changed_bytes_never_raise_anything_else(which, changes, small_files, tmp_path):
    content = bytearray(small_files[which])
    for place, value in changes:
        content[int(place * len(content))] = value
    (tmp_path / "changed.pth").write_bytes(bytes(content))
    with contextlib.suppress(InputError):
        found = read_tensors(tmp_path / "changed.pth")
        assert sum(array.size for array in found.values()) <= 20


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(InputError, match=r"none\.pth cannot be read \(No such file"):
        read_torch(tmp_path / "none.pth")
    with pytest.raises(InputError, match=r"cannot be read"):
        read_torch(tmp_path)
    (tmp_path / "text.pth").write_text("these are not weights")
    with pytest.raises(InputError, match=r"is not a weight file.*\.pth"):
        read_torch(tmp_path / "text.pth")
    np.savez(tmp_path / "arrays.npz", a=np.zeros(3))
    with pytest.raises(InputError, match=r"zip archive, but not one of torch.save"):
        read_torch(tmp_path / "arrays.npz")
    two = b"\x80\x02}(" + b"".join(text(n) + mapping({"a": tensor("0", "FloatStorage", 1, (1,))}) for n in ("netG", "netD")) + b"u."
    with pytest.raises(InputError, match=r"several sets of weights.*'netG', 'netD'"):
        read_torch(write_zip(tmp_path / "two.pth", two, {"0": np.zeros(1, np.float32)}))


def renamed(state, old, new):
    return {name.replace(old, new): array for name, array in state.items()}


FOREIGN = {
    "another network": (lambda s: {"conv1.weight": np.zeros((4, 3, 3, 3), np.float32)}, r"'conv1.weight'"),
    "no blocks": (lambda s: {n: a for n, a in s.items() if "block" not in n}, r"its blocks are the layers none"),
    "zero padding": (lambda s: renamed(s, "block.1.", "block.0."), r"convolutions of its blocks are the layers \[0, 6\]"),
    "a layer less": (lambda s: {n: a for n, a in s.items() if "model.7." not in n}, r"layer 7 has nothing"),
    "a layer more": (lambda s: s | {"model.25.weight": np.zeros(3, np.float32)}, r"also has a layer 25 \(weight\)"),
    "another shape": (lambda s: s | {"model.4.weight": s["model.4.weight"][:, :3]}, r"weight of layer 4 is float32 \(8, 3, 3, 3\), not"),
    "integers": (lambda s: s | {"model.19.bias": np.zeros(3, np.int64)}, r"bias of layer 19 is int64"),
    "instance norm with weights": (lambda s: s | {"model.5.weight": np.ones(8, np.float32)}, r"norm of layer 5 has weights"),
    "not finite": (lambda s: s | {"model.19.bias": np.full(3, np.nan, np.float32)}, r"layer 19 has values that are not finite"),
}


@pytest.mark.parametrize(("change", "message"), FOREIGN.values(), ids=FOREIGN)
def test_other_networks_are_refused_by_what_differs(change, message, tmp_path, rng):
    state = change(make_state(rng=rng))
    with pytest.raises(InputError, match=message) as caught:
        read_torch(write_torch(tmp_path / "net_G.pth", state))
    assert "net_G.pth holds no DeblurGAN generator" in one_line(caught)


def test_batch_norm_must_be_whole(tmp_path, rng):
    state = make_state(norm="batch", rng=rng)
    del state["model.5.running_var"]
    with pytest.raises(InputError, match=r"layer 5 has .*not weight, bias, running_mean, running_var"):
        read_torch(write_torch(tmp_path / "net_G.pth", state))


# Against PyTorch itself, where it is installed


@pytest.mark.parametrize("legacy", [False, True])
def test_files_and_outputs_of_pytorch(legacy, tmp_path, rng):
    torch = pytest.importorskip("torch", reason="PyTorch is no dependency; install it to compare with it")
    nn = torch.nn

    def normed(layer, features):
        return [layer, nn.InstanceNorm2d(features), nn.ReLU()]

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            first = [nn.ReflectionPad2d(1), *normed(nn.Conv2d(16, 16, 3), 16), nn.Dropout(0.5)]
            self.conv_block = nn.Sequential(*first, nn.ReflectionPad2d(1), *normed(nn.Conv2d(16, 16, 3), 16)[:2])

        def forward(self, x):
            return x + self.conv_block(x)

    up = {"stride": 2, "padding": 1, "output_padding": 1}
    net = nn.Module()
    net.model = nn.Sequential(
        *(nn.ReflectionPad2d(3), *normed(nn.Conv2d(3, 4, 7), 4)),
        *normed(nn.Conv2d(4, 8, 3, stride=2, padding=1), 8),
        *normed(nn.Conv2d(8, 16, 3, stride=2, padding=1), 16),
        *(Block(), Block()),
        *normed(nn.ConvTranspose2d(16, 8, 3, **up), 8),
        *normed(nn.ConvTranspose2d(8, 4, 3, **up), 4),
        *(nn.ReflectionPad2d(3), nn.Conv2d(4, 3, 7), nn.Tanh()),
    )
    net.eval()  # without tracked statistics this only turns dropout off
    torch.save(net.state_dict(), tmp_path / "net_G.pth", _use_new_zipfile_serialization=not legacy)
    image = rng.uniform(-1, 1, (1, 16, 20, 3)).astype(np.float32)
    with torch.no_grad():
        inputs = torch.from_numpy(image.transpose(0, 3, 1, 2).copy())
        expected = torch.clamp(inputs + net.model(inputs), -1, 1).numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(restored(tmp_path / "net_G.pth", image)[0], expected, atol=1e-5)
