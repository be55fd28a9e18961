"""Every choice that differs by back end, in one place: measured on CPU (README.md, section Speed), unmeasured elsewhere."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax

_platform: contextvars.ContextVar[str | None] = contextvars.ContextVar("platform", default=None)


def on_cpu() -> bool:
    """Whether what is traced here is for XLA's CPU back end: the one that runs by default, or the one of `choosing_for`."""
    return (_platform.get() or jax.default_backend()) == "cpu"


@contextlib.contextmanager
def choosing_for(platform: str) -> Iterator[None]:
    """What is traced inside takes the forms for this platform (cpu, cuda, tpu, ...) rather than for the one that runs here.

    jax does not know of it: a function that it has traced before keeps the form it was traced in, and one that it traces here keeps
    this one. So trace a function object that is new each time.
    """
    token = _platform.set(platform)
    try:
        yield
    finally:
        _platform.reset(token)


def plain_forms() -> contextlib.AbstractContextManager[None]:
    """What is traced inside takes the form that its definition has, as everywhere but on CPU: for counting operations."""
    return choosing_for("none")


def unroll_critic_loop() -> bool:
    """Whether `lax.fori_loop` over the critic updates is unrolled.

    XLA's CPU back end runs a convolution inside a loop body up to 50 times slower (26.6 s against 0.49 s a step at 128x128);
    elsewhere the rolled loop costs nothing and compiles faster.
    """
    return on_cpu()


def convolve_natively() -> bool:
    """Whether oneDNN convolves, where it is installed and gains (`ops.native`): it is for CPUs."""
    return on_cpu()


def crop_after_convolution() -> bool:
    """Whether a VALID convolution is computed as SAME and cropped (`ops.convolution`).

    The bits are identical; on XLA's CPU back end a VALID convolution leaves the fast path and is 2 to 20 times slower.
    """
    return on_cpu()


def multiply_for_kernel_gradient() -> bool:
    """Whether a convolution's kernel gradient is computed by matrix products, of a strided one over blocks (`ops.convolution`).

    On XLA's CPU back end it takes a fifth to a half of the time, but for small maps; elsewhere the libraries have kernels for it.
    """
    return on_cpu()


def fold_upsampling() -> bool:
    """Whether a convolution after nearest upsampling is computed as four smaller ones of the map itself (`ops.convolution`).

    On XLA's CPU back end it takes 0.4 of the time forward, which is what 4/9 of the multiply-adds promise; elsewhere it is unmeasured.
    """
    return on_cpu()


def multiply_for_fourier_transform() -> bool:
    """Whether the Fourier transform of the frequency loss is made of matrix products (`ops.fourier`).

    For an FFT XLA sends every device the images of all devices: 1.6 GB each for 256 devices with eight crops of 256. Products are made
    where the images are. On CPU, where devices are few, the FFT takes a third of the time.
    """
    return not on_cpu()


def order_by_value() -> bool:
    """Whether "not before" is said by adding a zero made of what is to come first, rather than by `lax.optimization_barrier`.

    XLA's CPU back end takes barriers out before it merges equal computations, and so undoes what `jax.checkpoint` is for: the paper's
    step took the same 771 MB with and without.
    """
    return on_cpu()
