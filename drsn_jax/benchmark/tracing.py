"""A trace of our training step and inference for XProf and Perfetto."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from drsn_jax.benchmark.our_rows import make_inference_call, make_step_call
from drsn_jax.system.errors import InputError

CALLS = 3  # of each


def write_trace(folder: str | Path, *, config: Mapping[str, Any]) -> list[str]:
    """Run a few compiled training steps and inferences under JAX's profiler. Returns the new files of the trace.

    They are `*.xplane.pb` for XProf (`pip install xprof`) and `perfetto_trace.json.gz` for https://ui.perfetto.dev, below
    `folder`/plugins/profile/DATE. Raises InputError if `folder` is a file, RuntimeError if the profiler wrote no trace.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--profile={folder} is a file; give a folder.")
    step, infer = make_step_call(config), make_inference_call(config, size=(config["crop_size"], config["crop_size"]))
    for call in (step, infer):  # to compile before the trace begins
        call()
    before = set(folder.rglob("*"))
    with jax.profiler.trace(folder, create_perfetto_trace=True):
        for i in range(CALLS):
            with jax.profiler.StepTraceAnnotation("training step", step_num=i):
                step()
        for i in range(CALLS):
            with jax.profiler.StepTraceAnnotation("inference", step_num=i):
                infer()
    files = sorted(str(path) for path in set(folder.rglob("*")) - before if path.is_file())
    if missing := [name for name in (".xplane.pb", "perfetto_trace.json.gz") if not any(file.endswith(name) for file in files)]:
        raise RuntimeError(f"The profiler wrote no {missing[0]} into {folder}, only {files}.")
    return files
