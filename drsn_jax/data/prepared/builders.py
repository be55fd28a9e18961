"""The benchmarks as TensorFlow Datasets: importing this module registers `tfds.builder('gopro/linear')` and so on.

Images are stored as the bytes of their files, in array_record files. Any example can be read by its number, so a training resumes bit
for bit. Preparing and reading need no TensorFlow. This module is imported inside functions only, because tensorflow_datasets is
optional.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from drsn_jax.data.benchmarks import CONFIGS, FOLDERS, survey_source
from drsn_jax.data.benchmarks.metadata import FACTS
from drsn_jax.data.benchmarks.survey import Example, Survey, check_complete
from drsn_jax.data.images.rgb import check_whole
from drsn_jax.data.prepared.manifest import cut_into_shards, describe, file_checks
from drsn_jax.system.errors import InputError

SHARD_BYTES = 512 * 2**20
PLACE = ("scene", "trajectory", "frame")  # Köhler's
Examples = Iterator[tuple[int, dict[str, Any]]]


class LocalInfo(tfds.core.DatasetInfo):
    """Information about data sets that are only made here."""

    def initialize_from_bucket(self) -> None:
        """Do nothing: tfds would ask Google's server about the set, and leave a temporary folder behind."""


# Not a `GeneratorBasedBuilder`: that collects all records of a split in memory or, from 1 GB on, through TensorFlow in
# temporary files. Without shuffling these form a single bucket, which is sorted in memory (tfds 4.9.10). GoPro has 9 GB.
class _Benchmark(tfds.core.ShardBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "First version: the bytes of the image files, in order of their names."}
    url_infos = None  # nothing is downloaded; searching for checksums would need a package that tfds 4.9.10 does not require

    survey: Survey | None = None  # the data to store; None: the content of `manual_dir`, which must be complete
    on_example: Callable[[str, int], None] | None = None  # called with the split and the number of examples of it so far
    skip_damaged = False  # exclude damaged examples and count them in the metadata, instead of stopping

    def __init__(self, *, file_format: str | None = None, **kwargs: Any):
        super().__init__(file_format=file_format or "array_record", **kwargs)

    @property
    def title(self) -> str:
        return f"{self.name}/{self.builder_config.name}" if self.builder_config else self.name

    def _info(self) -> tfds.core.DatasetInfo:
        facts, image = FACTS[self.name], tfds.features.Image(shape=(None, None, 3))
        features: dict[str, Any] = {"name": tfds.features.Text()}
        if self.name == "koehler":
            features |= {place: tfds.features.Scalar(np.int32) for place in PLACE} | {"image": image}
        elif self.title == "lai/real":
            features["image"] = image
        else:
            features |= {"blurred": image, "sharp": image}
        return LocalInfo(
            builder=self,
            description=facts.description,
            features=tfds.features.FeaturesDict(features),
            homepage=facts.homepage or None,
            citation=facts.citation or None,
            license=facts.licence,
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,
        )

    def _shard_iterators_per_split(self, dl_manager: Any) -> dict[str, list[Callable[[], Examples]]]:
        survey = self.survey or self._survey_manual_dir(dl_manager.manual_dir)
        metadata: dict[str, Any] = self.info.metadata  # type: ignore[assignment]
        metadata.update(describe(survey))
        shards = {}
        for split, examples in survey.splits.items():
            if examples:
                metadata["splits"][split] = {"names": [], "sizes": [], "sha256": "", "damaged": [], "checks": {}}
                if survey.kind == "koehler":
                    metadata["splits"][split]["places"] = []
                digest = hashlib.sha256()
                parts = cut_into_shards(examples, limit=SHARD_BYTES)
                shards[split] = [partial(self._generate, part, split, digest) for part in parts]
        return shards

    def _survey_manual_dir(self, folder: Any) -> Survey:
        survey = survey_source(self.name, folder, variant=self.builder_config.name if self.builder_config else "")
        check_complete(survey, allow_incomplete=False)
        return survey

    def _generate(self, examples: Sequence[Example], split: str, digest: Any) -> Examples:
        stored = self.info.metadata["splits"][split]  # type: ignore[index]
        for example in examples:
            try:
                contents = {side: file.read_bytes() for side, file in example.files.items()}
                for side, encoded in contents.items():
                    check_whole(encoded, name=str(example.files[side]))
            except InputError as error:
                if not self.skip_damaged:
                    raise
                stored["damaged"].append(str(error))
                stored["checks"][example.name] = file_checks(example)
                self.info.metadata["complete"] = False  # type: ignore[index]
                continue
            hashes = [hashlib.sha256(contents[side]).hexdigest() for side in sorted(contents)]
            digest.update("\n".join([example.name, *hashes, ""]).encode())
            stored["names"].append(example.name)
            stored["checks"][example.name] = file_checks(example, contents)
            stored["sizes"].append(next(iter(example.sizes.values())))
            stored["sha256"] = digest.hexdigest()
            place = dict(zip(PLACE, example.place, strict=True)) if "places" in stored else {}
            if place:
                stored["places"].append(example.place)
            yield len(stored["names"]), {"name": example.name, **place, **contents}
            if self.on_example:
                self.on_example(split, len(stored["names"]))


def _configs(name: str, **descriptions: str) -> list[tfds.core.BuilderConfig]:
    return [tfds.core.BuilderConfig(name=config, description=descriptions[config]) for config in CONFIGS[name]]


def _manual(name: str) -> str:
    return f"Get {FACTS[name].download}, from {FACTS[name].homepage or 'your own disk'}, and give that folder as manual_dir."


class Gopro(_Benchmark):
    """GoPro; splits train, validation (a recording of the training scenes) and test."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = _manual("gopro")
    BUILDER_CONFIGS = _configs("gopro", linear="Frames averaged as they are.", gamma="Averaged before a gamma of 2.2.")


class Hide(_Benchmark):
    """HIDE; splits train and test."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = _manual("hide")


class Realblur(_Benchmark):
    """RealBlur; splits train and test."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = _manual("realblur")
    BUILDER_CONFIGS = _configs("realblur", r="Developed from the raw images.", j="JPEG by the camera.")


class Koehler(_Benchmark):
    """Köhler's benchmark; splits blurred and truth, one image an example."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = _manual("koehler")


class Lai(_Benchmark):
    """Lai's benchmark; split test."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = _manual("lai")
    BUILDER_CONFIGS = _configs("lai", real="Photographs.", uniform="Blurred by kernels.", nonuniform="Blurred by camera motions.")


class Reds(_Benchmark):
    """REDS, motion blur; splits train and validation."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = _manual("reds")


class DeblurringPairs(_Benchmark):
    """The user's own pairs; the configuration is the name of the set."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = _manual(FOLDERS)


BUILDERS: dict[str, type[_Benchmark]] = {cls.name: cls for cls in (Gopro, Hide, Realblur, Koehler, Lai, Reds, DeblurringPairs)}
