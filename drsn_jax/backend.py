"""Every choice that differs by back end, in one place. All are measured; see the table in README.md, section Speed."""

import jax


def on_cpu() -> bool:
    """Whether computations run on XLA's CPU back end by default."""
    return jax.default_backend() == "cpu"


def unroll_critic_loop() -> bool:
    """Whether `lax.fori_loop` over the critic updates is unrolled.

    XLA's CPU back end runs a convolution inside a loop body up to 50 times slower (26.6 s against 0.49 s a step at 128x128);
    elsewhere the rolled loop costs nothing and compiles faster.
    """
    return on_cpu()


def crop_after_convolution() -> bool:
    """Whether a convolution after padding is computed as SAME and cropped, rather than as VALID.

    The bits are identical; on XLA's CPU back end a VALID convolution leaves the fast path and is 2 to 20 times slower.
    """
    return on_cpu()


def multiply_for_kernel_gradient() -> bool:
    """Whether a stride-1 convolution's kernel gradient is computed by matrix products (`models.convolution`).

    On XLA's CPU back end it takes a third to a ninth of the time; elsewhere the libraries have kernels for it.
    """
    return on_cpu()
