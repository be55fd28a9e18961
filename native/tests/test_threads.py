"""OpenMP's threads: as many as cores, asleep between two calls; calls from several threads; precedence of the user's settings."""

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest
from test_convolution import assert_close

import drsn_jax_native
from drsn_jax_native import library
from drsn_jax_native.convolution import convolve
from drsn_jax_native.plain import plain_forward

VARIABLES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def run(code, **variables):
    """Return the output of a Python process with only the given variables of OpenMP."""
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES} | variables
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True).stdout.split()


def test_as_many_threads_as_cores():
    if "OMP_NUM_THREADS" not in os.environ:
        assert drsn_jax_native.count_threads() == drsn_jax_native.usable_cores()
    assert drsn_jax_native.usable_cores() <= len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("text", "cores"), [("max 100000", 8), ("150000 100000", 2), ("100000 100000", 1), ("5000 100000", 1), ("9900000 100000", 8), ("", 8)]
)
def test_a_quota_of_time_counts(text, cores, tmp_path, monkeypatch):
    (tmp_path / "cpu.max").write_text(text)
    monkeypatch.setattr(library, "_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert library.usable_cores() == cores


def test_affinity_and_what_the_user_sets():
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); import drsn_jax_native as n; print(n.count_threads())"
    assert run(code) == ["1"]
    assert run("import drsn_jax_native as n; print(n.count_threads())", OMP_NUM_THREADS="3") == ["3"]


def test_the_wait_policy_is_said_to_this_library_alone():
    """libgomp prints its settings when it is loaded. Afterwards the environment is as before."""
    code = "import os, drsn_jax_native as n; n.load(); print(os.environ.get('OMP_WAIT_POLICY'))"
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES} | {"OMP_DISPLAY_ENV": "verbose"}
    for variables, spins, left in (
        ({}, "0", "None"),
        ({"OMP_WAIT_POLICY": "active"}, None, "active"),
        ({"GOMP_SPINCOUNT": "77"}, "77", "None"),
    ):
        done = subprocess.run([sys.executable, "-c", code], env=environment | variables, capture_output=True, text=True, check=True)
        assert done.stdout.split() == [left]
        (found,) = {line.split("'")[1] for line in done.stderr.splitlines() if "GOMP_SPINCOUNT" in line}
        assert found == spins if spins else int(found) > 1000


def test_threads_sleep_between_calls(draw):
    x, kernel = draw(4, 64, 64, 32), draw(3, 3, 32, 32)
    step = jax.jit(convolve)
    jax.block_until_ready(step(x, kernel))
    before, start = time.process_time(), time.perf_counter()
    jax.block_until_ready(step(x, kernel))
    computing = time.process_time() - before
    assert computing > 0
    idle = time.process_time()
    time.sleep(1)
    assert time.process_time() - idle < 0.2 * (time.perf_counter() - start), "of one second, not a fifth on all cores together"


@pytest.mark.usefixtures("always")
def test_one_team_for_calls_from_many_threads(draw):
    x, kernels = draw(2, 16, 16, 16), [draw(3, 3, 16, 16) for _ in range(8)]
    step = jax.jit(convolve)
    jax.block_until_ready(step(x, kernels[0]))
    before = count_os_threads()
    with ThreadPoolExecutor(8) as pool:
        results = [list(pool.map(lambda kernel: step(x, kernel), kernels)) for _ in range(20)]
        inside = count_os_threads()
    assert inside - before <= 8 + 1, "the pool's own, and no team for each"
    expected = [plain_forward(x, kernel, stride=(1, 1), pads=((0, 0), (0, 0))) for kernel in kernels]
    for found in results:
        assert_close(found, expected)
        assert all(np.array_equal(one, other) for one, other in zip(found, results[0], strict=True)), "bits, from call to call"


def count_os_threads():
    return len(os.listdir("/proc/self/task"))


@pytest.mark.usefixtures("always")
def test_shapes_met_first_by_two_threads_at_once(draw):
    barrier, found = threading.Barrier(2), [None, None]
    args = [(draw(1, 10 + i, 10, 8), draw(3, 3, 8, 8)) for i in range(2)]

    def compute(i):
        barrier.wait()
        found[i] = convolve(*args[i])

    threads = [threading.Thread(target=compute, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_close(found, [plain_forward(*pair, stride=(1, 1), pads=((0, 0), (0, 0))) for pair in args])
