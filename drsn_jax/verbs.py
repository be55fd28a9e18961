"""The verbs of the command line: what each declares and does is in `drsn_jax.commands`.

A verb is a function of its parsed arguments. What it needs is imported inside it: `restore` must not wait for what only training uses.
"""

import argparse
from collections.abc import Callable
from typing import NamedTuple

from drsn_jax.commands import bench, compare, convert, evaluate, export, info, prepare, restore, serve, train


class Verb(NamedTuple):
    """One verb: its line in the help, what declares its arguments, what runs it (returning an exit code)."""

    help: str
    declare: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


VERBS = {
    "prepare": Verb("check a data set and store it, or make pairs of video or photographs", prepare.declare, prepare.run),
    "train": Verb("train a generator and its critic, or go on with it", train.declare, train.run),
    "evaluate": Verb("score a model on blurred images, by the benchmark's protocol", evaluate.declare, evaluate.run),
    "compare": Verb("say which differences between two evaluations exceed the noise", compare.declare, compare.run),
    "convert": Verb("weights of Keras and PyTorch into ours, and ours into Keras", convert.declare, convert.run),
    "export": Verb("write a generator as StableHLO, SavedModel, TFLite or compact float16 weights", export.declare, export.run),
    "restore": Verb("restore photographs and videos", restore.declare, restore.run),
    "serve": Verb("a web page on this machine that restores photographs", serve.declare, serve.run),
    "bench": Verb("time training, inference and reading images, beside Keras or alone", bench.declare, bench.run),
    "info": Verb("versions, devices, a configuration's keys and its networks' parameters and costs", info.declare, info.run),
}
