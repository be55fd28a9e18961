"""Full-frame evaluation during training: every validation image at every noise variance, and panels of some."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from drsn_jax.data.synthesis.photos import Sample
from drsn_jax.evaluation.scoring.protocols import add_noise, apply_protocol
from drsn_jax.evaluation.scoring.scores import Case, ImageScore, Scores, summarise
from drsn_jax.evaluation.scoring.stream import score_images
from drsn_jax.system.panels import make_panel, save_png, stack_panels

Image = UInt8[np.ndarray, "h w 3"]


class Validation(NamedTuple):
    """The result of an evaluation: a summary for each noise variance (see `scoring.summarise`) and a picture of panels.

    `input_scores` are the scores of the blurred images by noise variance and name.
    """

    summaries: dict[float, dict[str, Any]]
    picture: Image | None
    input_scores: dict[tuple[float, str], Scores]

    @property
    def psnr(self) -> float:
        """The mean PSNR in dB at the first noise variance, which selects the best checkpoint."""
        return next(iter(self.summaries.values()))["restored"]["psnr"]

    def scalars(self) -> dict[str, float]:
        """Return the figures for the log: eval/psnr and so on, with the noise variance in the name if there is noise."""
        scalars = {}
        for variance, summary in self.summaries.items():
            prefix = f"eval/noise_{variance:g}/" if variance else "eval/"
            scalars |= {f"{prefix}{name}": value for name, value in summary["restored"].items()}
            scalars |= {f"{prefix}psnr_input": summary["input"]["psnr"], f"{prefix}psnr_gain": summary["gain"]["psnr"]}
        return scalars

    def table(self, *, protocol: str) -> str:
        """Format the figures as a table for the terminal."""
        count = next(iter(self.summaries.values()))["images"]
        lines = [f"{count} validation images, {protocol} protocol      input PSNR   restored    gain     input SSIM   restored (Gaussian)"]
        for variance, summary in self.summaries.items():
            before, after = summary["input"], summary["restored"]
            noise = f"noise variance {variance:g}" if variance else "without noise"
            lines.append(
                f"  {noise:<44}{before['psnr']:9.2f} dB {after['psnr']:7.2f} dB {summary['gain']['psnr']:+6.2f} dB"
                f" {before['ssim_gaussian']:12.4f} {after['ssim_gaussian']:10.4f}"
            )
        return "\n".join(lines)


def validate(
    samples_fn: Callable[[], Iterator[Sample | None]],
    *,
    restore_fn: Callable[[Image], Image],
    noise_variances: Sequence[float],
    protocol: str,
    num_panels: int,
    together: int = 1,
    input_scores: Mapping[tuple[float, str], Scores] = MappingProxyType({}),
) -> Validation:
    """Restore and score every sample at every noise variance; draw `num_panels` of the first ones, all variances below each other.

    A None instead of a sample is skipped; the others keep their noise. With `together` above 1, `restore_fn` gets batches of up to
    `together` neighbours of one size. `input_scores` from an earlier evaluation of the same samples are not computed again. Raises
    InputError for samples that cannot be scored.
    """
    summaries, rows, found = {}, {}, {}

    def draw(score: ImageScore, case: Case, restored: Image) -> None:
        if len(rows) < num_panels or score.name in rows:
            labels = [f"blurred {score.input['psnr']:.2f} dB", f"restored {score.restored['psnr']:.2f} dB", "sharp"]
            rows.setdefault(score.name, []).append(make_panel([case.blurred, restored, case.truth], labels=labels, zoom_box="auto"))

    for variance in noise_variances:
        cases = (
            Case(
                name,
                blurred=add_noise(apply_protocol(blurred, protocol=protocol), variance=variance, index=i),
                truth=apply_protocol(sharp, protocol=protocol),
                input_scores=input_scores.get((variance, name)),
            )
            for i, sample in enumerate(samples_fn())
            if sample is not None
            for name, blurred, sharp in [sample]
        )
        scores = list(score_images(cases, restore_fn=restore_fn, together=together, on_image=draw))
        summaries[float(variance)] = summarise(scores)
        found |= {(variance, score.name): score.input for score in scores}
    panels = [panel for group in rows.values() for panel in group]
    return Validation(summaries, stack_panels(panels) if panels else None, found)


def write_samples(samples: Iterable[Sample], folder: Path) -> Path:
    """Write samples as FOLDER/blur/NAME.png and FOLDER/sharp/NAME.png, for evaluating or restoring them as files; returns the folder.

    Existing files are kept. Raises OSError if the folder cannot be written.
    """
    for name, blurred, sharp in samples:
        for side, image in (("blur", blurred), ("sharp", sharp)):
            path = folder / side / f"{name}.png"
            if not path.exists():
                save_png(image, path)
    return folder
