"""A comparison of oneDNN's and XLA's convolutions on this machine as a Markdown table (native/README.md): `python tools/native_speed.py`.

Each row is a shape from a network, computed by `drsn_jax.ops.convolution` with and without drsn-jax-native: forward pass, input gradient,
kernel gradient. Both forms are compiled, run once, then 11 times in turn. The table has the median milliseconds of a call, and the
ratio of the medians of processor time (all threads), which is less affected by other programs on the same cores.
"""

import argparse
import dataclasses
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax

from drsn_jax.ops.backend import CPU
from drsn_jax.ops.convolution import convolve
from drsn_jax.system.extension import find_extension

ROUNDS = 11
SHAPES = {  # name: maps [b h w c], kernel [kh kw c d], stride, padding
    "paper, blocks": ((1, 66, 66, 256), (3, 3, 256, 256), 1, "VALID"),
    "paper, stem": ((1, 262, 262, 3), (7, 7, 3, 64), 1, "VALID"),
    "paper, head": ((1, 262, 262, 64), (7, 7, 64, 3), 1, "VALID"),
    "paper, down": ((1, 256, 256, 64), (3, 3, 64, 128), 2, "SAME"),
    "paper, up (folded)": ((1, 66, 66, 256), (2, 2, 256, 512), 1, "VALID"),
    "paper, critic": ((1, 128, 128, 64), (4, 4, 64, 64), 2, "SAME"),
    "VGG19, conv1_1": ((1, 256, 256, 3), (3, 3, 3, 64), 1, "SAME"),
    "VGG19, conv1_2": ((1, 256, 256, 64), (3, 3, 64, 64), 1, "SAME"),
    "VGG19, conv2_1": ((1, 128, 128, 64), (3, 3, 64, 128), 1, "SAME"),
    "VGG19, conv2_2": ((1, 128, 128, 128), (3, 3, 128, 128), 1, "SAME"),
    "VGG19, conv3_1": ((1, 64, 64, 128), (3, 3, 128, 256), 1, "SAME"),
    "VGG19, conv3_2": ((1, 64, 64, 256), (3, 3, 256, 256), 1, "SAME"),
    "small, fine": ((8, 66, 66, 48), (3, 3, 48, 48), 1, "VALID"),
    "small, middle": ((8, 34, 34, 64), (3, 3, 64, 64), 1, "VALID"),
    "small, coarse": ((8, 18, 18, 80), (3, 3, 80, 80), 1, "VALID"),
    "small, stem": ((8, 66, 66, 12), (3, 3, 12, 48), 1, "VALID"),
    "small, down": ((8, 64, 64, 48), (3, 3, 48, 64), 2, "SAME"),
    "base, fine": ((8, 66, 66, 64), (3, 3, 64, 64), 1, "VALID"),
    "base, middle": ((8, 34, 34, 96), (3, 3, 96, 96), 1, "VALID"),
    "base, coarse": ((8, 18, 18, 128), (3, 3, 128, 128), 1, "VALID"),
}


def compile_forms(natively: bool, dtype: str, maps: Any, size: Any, stride: int, padding: str) -> list[Callable[[], None]]:
    """Compile calls of the forward pass and both gradients in float32 or bfloat16."""

    forms = dataclasses.replace(CPU, native=natively)

    def conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return convolve(x, kernel, (stride, stride), padding, forms=forms, dimension_numbers=("NHWC", "HWIO", "NHWC"))

    keys = jax.random.split(jax.random.key(0), 3)
    x, kernel = jax.random.normal(keys[0], maps, dtype), jax.random.normal(keys[1], size, dtype)
    out = jax.eval_shape(conv, x, kernel)
    y = jax.random.normal(keys[2], out.shape, out.dtype)
    programs = [
        (jax.jit(conv).lower(x, kernel).compile(), (x, kernel)),
        (jax.jit(lambda y, kernel: jax.vjp(lambda x: conv(x, kernel), x)[1](y)[0]).lower(y, kernel).compile(), (y, kernel)),
        (jax.jit(lambda x, y: jax.vjp(lambda kernel: conv(x, kernel), kernel)[1](y)[0]).lower(x, y).compile(), (x, y)),
    ]
    return [lambda program=program, args=args: jax.block_until_ready(program(*args)) for program, args in programs]


def measure(calls: list[Callable[[], None]]) -> list[tuple[float, float]]:
    """Return median seconds and median processor seconds of each call, taken in turn."""
    for call in calls:
        call()
    found = [[] for _ in calls]
    for _ in range(ROUNDS):
        for call, taken in zip(calls, found, strict=True):
            start, processor = time.perf_counter(), time.process_time()
            call()
            taken.append((time.perf_counter() - start, time.process_time() - processor))
    return [(statistics.median(t[0] for t in taken), statistics.median(t[1] for t in taken)) for taken in found]


def main() -> int:
    """Print the table, in float32 or with `--dtype=bfloat16` in that."""
    parser = argparse.ArgumentParser(prog="native_speed", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="precision of maps and kernels (default float32)"
    )
    dtype = parser.parse_args().dtype
    if find_extension().module is None:
        sys.stderr.write(f"drsn-jax-native is {find_extension().status}: pip install ./native\n")
        return 2
    kinds = ("forward", "input gradient", "kernel gradient")
    print("| shape | " + " | ".join(f"{kind}, ms | ratio" for kind in kinds) + " |\n|---" + "|--:|--:" * len(kinds) + "|")  # noqa: T201
    for name, shape in SHAPES.items():
        ours, theirs = (compile_forms(natively, dtype, *shape) for natively in (True, False))
        cells = []
        for pair in zip(ours, theirs, strict=True):
            native, plain = measure(list(pair))
            cells.append(f"{native[0] * 1e3:.1f} for {plain[0] * 1e3:.1f} | {native[1] / plain[1]:.2f}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
