"""Forms: the ways in which an operation can be written. Values are equal to rounding; speed and memory differ by platform.

Measured on CPU (docs/explanation/numerics.md), unmeasured elsewhere. A network and a step hold their forms as a static field, so that
tracing depends on arguments alone.
"""

import dataclasses

import jax


@dataclasses.dataclass(frozen=True)
class Forms:
    """The form of each operation. The defaults are the definitions themselves: they work on every platform and under every transformation.

    `jvp`, `linearize` and `hessian` need `PLAIN`: `multiply_kernel_gradients` and the rematerialisation of `sequence_by_value` are
    `jax.custom_vjp`s, which JAX differentiates in reverse alone.
    """

    native: bool = False
    """Leave convolutions to oneDNN where the optional `drsn-jax-native` is installed and gains (`ops.native`). It is for CPUs."""
    crop_convolutions: bool = False
    """Compute a convolution after padding as SAME and crop it, rather than as VALID. The bits are identical. On XLA's CPU back end a VALID
    convolution leaves the fast path and takes 2 to 20 times longer."""
    multiply_kernel_gradients: bool = False
    """Compute a convolution's kernel gradient by matrix products, of a strided one over blocks (`ops.convolution`). On XLA's CPU back end
    it takes a fifth to a half of the time, but for small maps; elsewhere the libraries have kernels for it."""
    fold_upsampling: bool = False
    """Compute a convolution after nearest upsampling as four smaller ones of the map itself (`ops.convolution`). On XLA's CPU back end it
    takes 0.4 of the time forward: 4/9 of the multiply-adds."""
    unroll_loops: bool = False
    """Unroll `lax.fori_loop` over the critic's updates. XLA's CPU back end runs a convolution inside a loop body up to 50 times slower
    (26.6 s against 0.49 s a step at 128x128); elsewhere the rolled loop costs nothing and compiles faster."""
    multiply_fourier: bool = True
    """Make the Fourier transform of the frequency loss of matrix products (`ops.fourier`). For an FFT XLA sends every device the images
    of all devices: 1.6 GB each for 256 devices with eight crops of 256. On CPU, with few devices, the FFT takes a third of the time."""
    sequence_by_value: bool = False
    """Say "not before" by adding a zero made of the value that has to come first, rather than by `lax.optimization_barrier` (`ops.remat`).
    XLA's CPU back end removes barriers before it merges equal computations, and so undoes `jax.checkpoint`: the paper's step took the same
    771 MB with and without."""


PLAIN = Forms()
"""Every operation as its definition has it."""
CPU = Forms(
    native=True,
    crop_convolutions=True,
    multiply_kernel_gradients=True,
    fold_upsampling=True,
    unroll_loops=True,
    multiply_fourier=False,
    sequence_by_value=True,
)
"""The fastest forms on XLA's CPU back end."""


def forms_for(platform: str) -> Forms:
    """The forms for a platform by JAX's name of it: cpu, cuda, tpu, ..."""
    return CPU if platform == "cpu" else PLAIN


def forms_here() -> Forms:
    """The forms for the platform that JAX runs on by default. A network or a step asks once, when it is made."""
    return forms_for(jax.default_backend())
