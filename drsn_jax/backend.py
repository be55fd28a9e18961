"""Every choice that differs by back end, in one place. All are measured; see the table in README.md, section Speed."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax

_plain = contextvars.ContextVar("plain", default=False)


def on_cpu() -> bool:
    """Whether computations run on XLA's CPU back end by default, and what is traced here may take the forms made for it."""
    return jax.default_backend() == "cpu" and not _plain.get()


@contextlib.contextmanager
def plain_forms() -> Iterator[None]:
    """What is traced inside takes the form that its definition has, whatever the back end: for counting operations, not for running.

    A function that was jitted and traced before keeps the form it was traced in.
    """
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


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


def fold_upsampling() -> bool:
    """Whether a convolution after nearest upsampling is computed as four smaller ones of the map itself (`models.convolution`).

    On XLA's CPU back end it takes 0.4 of the time forward, which is what 4/9 of the multiply-adds promise; elsewhere it is unmeasured.
    """
    return on_cpu()


def order_by_value() -> bool:
    """Whether "not before" is said by adding a zero made of what is to come first, rather than by `lax.optimization_barrier`.

    XLA's CPU back end takes barriers out before it merges equal computations, and so undoes what `jax.checkpoint` is for: the paper's
    step took the same 771 MB with and without.
    """
    return on_cpu()
