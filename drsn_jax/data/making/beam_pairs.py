"""Pairs made by an Apache Beam pipeline, here or on a cluster, as a data set of tensorflow_datasets (array_record).

On this machine: `drsn-jax prepare video --source=CLIP --beam-runner=DirectRunner --data-dir=DIR`. On a cluster every worker needs this
package with the extras `data`, `beam` and `video`. It must reach the sources and DIR under the same path: a mounted bucket or network
folder. DIR may also be gs://...

    Dataflow       --beam-runner=DataflowRunner
                   --beam-options='--project=P,--region=R,--temp_location=gs://B/tmp,--sdk_container_image=IMAGE'
    Spark, Flink   --beam-runner=PortableRunner
                   --beam-options='--job_endpoint=HOST:8099,--environment_type=DOCKER,--environment_config=IMAGE'
    with a jar     --beam-runner=SparkRunner (or FlinkRunner)
                   --beam-options='--spark_job_server_jar=FILE.jar,--spark_master_url=spark://HOST:7077'

PortableRunner needs a running job server of Beam, such as its containers `apache/beam_spark3_job_server` and
`apache/beam_flink1.19_job_server`. Without a jar the last two runners would download it, so that is refused.

Beam's writer of tensorflow_datasets supports array_record, but imports TensorFlow. For the same seed the pixels are equal to those of the
command without Beam. This module is imported inside functions only, because it imports tensorflow_datasets.
"""

import io
import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from etils import epath

from drsn_jax.data.making.beam_runners import open_beam
from drsn_jax.data.making.pair_writer import Example, Line, refuse_other_settings
from drsn_jax.system.errors import InputError
from drsn_jax.system.locks import lock_folder

BLOCK = 16  # windows of a source that one worker makes together, because a video is decoded from the key frame before the first of them


class _MadeByBeam(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Examples of `examples_fn`; each element (a list of lines) may run on any worker. Without elements it reads the stored set."""

    VERSION = tfds.core.Version("1.0.0")
    url_infos = None  # nothing is downloaded; searching for checksums would need a package that tfds 4.9.10 does not require

    def __init__(
        self,
        *,
        elements: Sequence[Sequence[Line]] = (),
        examples_fn: Callable[[Sequence[Line]], Iterable[Example]] | None = None,
        settings: Mapping[str, Any] | None = None,
        file_format: str | None = None,
        **options: Any,
    ):
        self._elements, self._examples_fn, self._settings = elements, examples_fn, dict(settings or {})
        super().__init__(file_format=file_format or "array_record", **options)

    def _info(self) -> tfds.core.DatasetInfo:
        from drsn_jax.data.prepared.builders import LocalInfo  # imported late, because it imports the benchmarks

        image = partial(tfds.features.Image, shape=(None, None, 3), encoding_format="png")
        features = {"blurred": image(), "sharp": image(), "name": tfds.features.Text(), "scene": tfds.features.Text()}
        return LocalInfo(
            builder=self,
            description=str(self.__doc__),
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("blurred", "sharp"),
            metadata=tfds.core.MetadataDict(self._settings),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Any:
        import apache_beam as beam

        assert self._examples_fn is not None, "examples are only made by `prepare_with_beam`"
        make_fn = partial(_records, examples_fn=self._examples_fn)
        return "Pairs" >> beam.Create([list(element) for element in self._elements]) | beam.Reshuffle() | "Make" >> beam.FlatMap(make_fn)


class AveragedVideo(_MadeByBeam):
    """Blurred and sharp images from videos: the mean light of consecutive frames, and the frame at their centre."""


class BlurredPhotos(_MadeByBeam):
    """Sharp photographs, and the same with synthetic camera shake."""


def _records(
    element: Sequence[Line], *, examples_fn: Callable[[Sequence[Line]], Iterable[Example]]
) -> Iterable[tuple[str, dict[str, Any]]]:
    for line, blurred, sharp in examples_fn(element):
        yield line["name"], {"blurred": blurred, "sharp": sharp, "name": line["name"], "scene": line["scene"]}


def blocks(lines: Sequence[Line], *, size: int = BLOCK) -> list[list[Line]]:
    """Group neighbouring lines of the same scene, at most `size` each."""
    scenes: dict[str, list[Line]] = {}
    for line in lines:
        scenes.setdefault(line["scene"], []).append(line)
    return [group[i : i + size] for group in scenes.values() for i in range(0, len(group), size)]


def prepare_with_beam(
    builder_class: type[_MadeByBeam],
    *,
    data_dir: str,
    runner: str,
    options: Sequence[str],
    settings: Mapping[str, Any],
    plan_fn: Callable[[], Sequence[Sequence[Line]]],
    examples_fn: Callable[[Sequence[Line]], Iterable[Example]],
    overwrite: bool = False,
) -> tuple[str, int]:
    """Run the pipeline unless the data set exists. Returns its folder and the number of its examples.

    `examples_fn` must be picklable. `plan_fn` returns the elements. `options` are Beam's, each as --name=value. The data set appears once
    it is complete; an interrupted one is made again. Raises `InputError` for a missing Beam, an unknown runner and an invalid option.
    Raises it also for a data set that was made with other settings (unless `overwrite`), or that another process is preparing.
    """
    beam = dict(zip(("beam_options", "beam_runner"), open_beam(runner, options), strict=True))
    settings, place = json.loads(json.dumps(dict(settings))), epath.Path(data_dir) / builder_class.name
    remote = "://" in data_dir  # buckets have no locks
    with nullcontext() if remote else lock_folder(Path(place), doing=f"preparing {builder_class.name}"):
        folder = epath.Path(builder_class(data_dir=data_dir).data_path)
        aside = folder.parent / f"{folder.name}.replaced"
        for left in () if remote else place.glob("incomplete.*"):  # left by a killed run
            left.rmtree()
        _settle(folder, aside)
        if folder.exists() and not overwrite:
            stored = json.loads((folder / "metadata.json").read_text()) if (folder / "metadata.json").exists() else {}
            refuse_other_settings(str(folder), stored, settings)
            return str(folder), builder_class(data_dir=data_dir).info.splits["train"].num_examples
        elements = plan_fn()
        if folder.exists():
            folder.rename(aside)  # kept until the new one is complete
        try:
            builder = builder_class(data_dir=data_dir, elements=elements, examples_fn=examples_fn, settings=settings)
            _build(builder, tfds.download.DownloadConfig(**beam))
        finally:
            _settle(folder, aside)
        return str(folder), builder.info.splits["train"].num_examples


def _settle(folder: epath.Path, aside: epath.Path) -> None:
    """Keep the new set if it is complete, else restore the one that it was to replace."""
    if not aside.exists():
        return
    if (folder / "dataset_info.json").exists() and (folder / "metadata.json").exists():
        aside.rmtree()
        return
    if folder.exists():
        folder.rmtree()
    aside.rename(folder)


def _build(builder: _MadeByBeam, how: Any) -> None:
    """Run the pipeline. A mistake found by a worker (an unreadable photograph) comes back inside an error of the runner."""
    tfds.disable_progress_bar()
    beam_log = logging.getLogger("apache_beam")
    beam_log.setLevel(logging.CRITICAL)  # errors are raised as well; the log would add a traceback
    try:
        with redirect_stdout(io.StringIO()):  # tfds announces a download there
            builder.download_and_prepare(download_config=how)
    except Exception as error:
        text = str(error) if not isinstance(error, InputError) else f"InputError: {error}"
        if found := re.search(r"InputError: (.*?)(?: \[while running|\\n|\n|$)", text):
            raise InputError(found[1]) from error
        if text.startswith("Pipeline has validations errors"):  # a required option of the runner is missing
            raise InputError(f"--beam-options: {'; '.join(text.splitlines()[1:])}") from error
        raise
    finally:
        beam_log.setLevel(logging.NOTSET)
