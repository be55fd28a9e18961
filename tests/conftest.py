"""Common set-up: types, shapes and promotions checked in every call, eight CPU devices before jax starts, a compile cache; a photograph."""

import gc
import os
from pathlib import Path

import xla_flags

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Else TensorFlow imports Keras, SciPy and Matplotlib, 2 s in each process of the tests. `import keras` is the same with it; clu's summaries
# need tf.keras, but are written by other processes.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("DRSN_JAX_COMPILATION_CACHE", "off")  # of processes that tests start: the user's folder is left alone
# What users run, in twice the time: XLA_FLAGS='--xla_cpu_use_fusion_emitters=true --xla_backend_optimization_level=3
# --xla_llvm_disable_expensive_passes=false'. Another processor: XLA_FLAGS=--xla_cpu_max_isa=AVX2.
os.environ["XLA_FLAGS"] = xla_flags.with_given(xla_flags.QUICK)
# A device may wait in several sums at once, each in a thread of a pool that all share, of one for each device: eight devices that wait
# in different sums would then wait for ever.
os.environ.setdefault("NPROC", "32")

import jax
import numpy as np
import pytest
import strictness
from hypothesis import HealthCheck, settings
from jaxtyping import config as jaxtyping_config
from jaxtyping import install_import_hook

# Before anything of drsn_jax is imported: what its signatures say of types and shapes is checked in every call of this process. An
# int passes for a float, as PEP 484 has it.
install_import_hook("drsn_jax", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

strictness.be_strict()
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parent.parent / ".jax_cache"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
jax.config.update("jax_traceback_in_locations_limit", 0)  # lines of source in compiled programs cost a twentieth of the time

# Tracing makes millions of objects and frees most of them without the collector, which else takes a twentieth of the time.
gc.set_threshold(100_000, 20, 50)

# The same examples in every run, and no clock decides: what CI has passed it passes again. HYPOTHESIS_PROFILE=default draws new ones.
settings.register_profile("repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


@pytest.fixture(autouse=True, scope="module")
def plain_for_third_parties(request):
    """Use JAX's default settings in modules that run code of third parties that needs them."""
    with strictness.plain_settings(*strictness.third_parties_of(request.path)):
        yield


@pytest.fixture(autouse=True, scope="module")
def small_heap():
    """Freeze the objects of each finished module, because otherwise each garbage collection takes over a second at the end."""
    yield
    gc.freeze()


LONGEST = ("test_processes", "test_resume", "test_keras_parity", "test_train_step", "test_bench_run", "test_buckets", "test_colab")
LONGEST += ("test_accumulation", "test_bad_input", "test_export", "test_end_to_end", "test_compact", "test_cli", "test_functional")
LONGEST += ("test_benchmark", "test_pipeline", "test_making", "test_memory", "test_fit", "test_generator", "test_koehler", "test_docs")


@pytest.fixture
def rng():
    """Return a seeded numpy generator."""
    return np.random.default_rng(0)


@pytest.fixture
def unchecked():
    """Switch off the checks of annotations, as for users, to see the package's own errors for a wrong type or shape."""
    jaxtyping_config.update("jaxtyping_disable", True)
    yield
    jaxtyping_config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def photograph() -> np.ndarray:
    """Return a colour photograph, uint8 [h w 3]: scikit-image's astronaut."""
    data = pytest.importorskip("skimage.data", reason="scikit-image carries the photographs: pip install 'drsn-jax[demo]'")
    return data.astronaut()


def pytest_configure(config):
    """Distribute files to the processes in the order below, not by their number of tests."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(config, items):
    """Run the longest files first, so that all processes end together. Tests of minutes only run on request."""
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))
    if "soak" not in (config.getoption("-m") or ""):
        for item in (item for item in items if "soak" in item.keywords):
            item.add_marker(pytest.mark.skip(reason="takes minutes, to be run before a release: pytest -m soak"))
