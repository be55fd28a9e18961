"""Forms: alternative ways to compute an operation. Values are equal to rounding; speed and memory differ by platform.

They are measured on CPU (docs/explanation/numerics.md) and unmeasured elsewhere. A network and a step hold their forms as a static
field, so that tracing depends on arguments alone.
"""

import dataclasses

import jax


@dataclasses.dataclass(frozen=True)
class Forms:
    """The form of each operation. The defaults are the plain definitions: they work on every platform and under every transformation.

    `jvp`, `linearize` and `hessian` need `PLAIN`: `multiply_kernel_gradients` and the rematerialisation of `sequence_by_value` are
    `jax.custom_vjp`s, which support only reverse mode.
    """

    native: bool = False
    """Run convolutions in oneDNN if the optional `drsn-jax-native` is installed and faster (`ops.native`). For CPUs."""
    crop_convolutions: bool = False
    """Compute a VALID convolution as SAME and crop the result. The bits are identical. XLA's CPU back end has no fast path for VALID: it
    takes 2 to 20 times longer."""
    multiply_kernel_gradients: bool = False
    """Compute the kernel gradient of a convolution by matrix products, for a strided one over blocks (`ops.convolution`). On XLA's CPU
    back end it takes a fifth to a half of the time, except for small maps. Elsewhere the libraries have kernels for it."""
    fold_upsampling: bool = False
    """Compute a convolution after nearest upsampling as four smaller ones of the original map (`ops.convolution`), with 4/9 of the
    multiply-adds. On XLA's CPU back end the forward pass takes 0.4 of the time."""
    unroll_loops: bool = False
    """Unroll `lax.fori_loop` over the critic's updates. XLA's CPU back end runs a convolution inside a loop up to 50 times slower: 26.6 s
    instead of 0.49 s a step at 128x128. Elsewhere the rolled loop costs nothing and compiles faster."""
    multiply_fourier: bool = True
    """Compute the Fourier transform of the frequency loss by matrix products (`ops.fourier`). For an FFT XLA gathers the images of all
    devices on every device: 1.6 GB each for 256 devices with eight crops of 256. On CPU, with few devices, the FFT takes a third of the
    time."""
    sequence_by_value: bool = False
    """Order two computations by adding a zero made of the first result, instead of by `lax.optimization_barrier` (`ops.remat`).
    XLA's CPU back end removes barriers before it merges equal computations, which undoes `jax.checkpoint`: the paper's step took the same
    771 MB with and without it."""


PLAIN = Forms()
"""Every operation in its plain definition."""
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
    """Return the forms for a platform by JAX's name: cpu, cuda, tpu, ..."""
    return CPU if platform == "cpu" else PLAIN


def forms_here() -> Forms:
    """Return the forms for JAX's default platform. A network or a step calls this once, when it is made."""
    return forms_for(jax.default_backend())
