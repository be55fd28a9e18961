"""The benchmarks as they are downloaded, a few tiny images each: file names and bytes, to be written as folders or archives."""

import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from drsn_jax.data.benchmarks import gopro, hide, koehler, lai, realblur, reds
from drsn_jax.data.benchmarks.survey import Expected

SIZE = (24, 40)  # height and width
Files = dict[str, bytes]


def image(seed, *, size=SIZE, suffix="PNG", mode="RGB") -> bytes:
    """Encode an image of noise, another one for each seed."""
    seed = sum(ord(letter) * 31**place for place, letter in enumerate(str(seed))) % 2**32
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(stream, suffix)
    return stream.getvalue()


def images(*names, size=SIZE) -> Files:
    return {name: image(name, size=size) for name in names}


def write_folder(folder: Path, files: Files) -> Path:
    for name, contents in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(contents)
    return folder


def write_zip(path: Path, files: Files) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, contents in files.items():
            archive.writestr(name, contents)
    return path


def gopro_files(frames=2) -> Files:
    """Training scenes A and B and two of one recording, GOPR0374; one scene to test on."""
    scenes = ["train/A", "train/B", "train/GOPR0374_11_00", "train/GOPR0374_11_01", "test/T"]
    kinds = ("blur", "blur_gamma", "sharp")
    return images(*(f"{scene}/{kind}/{frame:06d}.png" for scene in scenes for kind in kinds for frame in range(frames)))


def hide_files() -> Files:
    names = {"train": ["1fromGOPR1.MP4", "2fromGOPR1.MP4"], "test/test-close-ups": ["3.MP4"], "test/test-long-shot": ["4.MP4"]}
    blurred = images(*(f"{folder}/{name}.png" for folder, there in names.items() for name in there))
    return blurred | images(*(f"GT/{name}.png" for there in names.values() for name in there))


def realblur_files() -> Files:
    files = {}
    for letter, folder in (("J", realblur.FOLDERS["j"]), ("R", realblur.FOLDERS["r"])):
        lines = {"train": [], "test": []}
        for scene, part in (("scene001", "train"), ("scene002", "test"), ("scene003", "train")):
            for number in (1, 2):
                pair = f"{folder}/{scene}/gt/gt_{number}.png", f"{folder}/{scene}/blur/blur_{number}.png"
                files |= images(*pair, size=(24 + number, 40))
                lines[part].append(" ".join(pair))
        files |= {f"RealBlur_{letter}_{part}_list.txt": "\n".join([*there, ""]).encode() for part, there in lines.items()}
    return files


def koehler_files(truths=3) -> Files:
    """Two scenes of two trajectories."""
    places = [(scene, trajectory) for scene in (1, 2) for trajectory in (1, 2)]
    files = images(*(f"BlurryImages/Blurry{scene}_{trajectory}.png" for scene, trajectory in places))
    names = (f"Image{s}/Kernel{t}/GroundTruth{s}_{t}_{frame}.png" for s, t in places for frame in range(1, truths + 1))
    return files | images(*names)


def lai_files() -> Files:
    """Sharp images a and a_b: the name of the one begins like the other's."""
    blurred = [
        f"{part}/{name}_{mark}_0{k}.png"
        for part, mark in (("uniform", "kernel"), ("nonuniform", "gyro"))
        for name in ("a", "a_b")
        for k in (1, 2)
    ]
    real = {f"real/{name}.jpg": image(name, suffix="JPEG", size=size) for name, size in (("x", (24, 40)), ("y", (30, 20)))}
    return images("ground_truth/a.png", "ground_truth/a_b.png", *blurred) | real


def reds_files() -> Files:
    sides = [f"{part}/{part}_{side}" for part in ("train", "val") for side in ("blur", "sharp")]
    return images(*(f"{side}/{scene:03d}/{frame:08d}.png" for side in sides for scene in (0, 1) for frame in (0, 1)))


def expect_tiny(monkeypatch) -> None:
    """Make the contents of the files above the expected ones."""
    tiny = {
        gopro: {"train": Expected(4, 8, SIZE), "test": Expected(1, 2, SIZE)},
        hide: {"train": Expected(None, 2, SIZE), "test": Expected(None, 2, SIZE)},
        realblur: {"train": Expected(2, 4), "test": Expected(1, 2)},
        koehler: {"blurred": Expected(2, 4, SIZE), "truth": Expected(2, None, SIZE)},
        lai: {"real": Expected(None, 2), "uniform": Expected(2, 4), "nonuniform": Expected(2, 4)},
        reds: {"train": Expected(2, 4, SIZE), "val": Expected(2, 4, SIZE)},
    }
    for module, expected in tiny.items():
        monkeypatch.setattr(module, "EXPECTED", expected)
    for name, value in (("SCENES", 2), ("TRAJECTORIES", 2), ("LEAST_TRUTHS", 3)):
        monkeypatch.setattr(koehler, name, value)
