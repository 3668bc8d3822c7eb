"""Patches for lesion training: our store, cut on the fly, against the reference way.

The reference way (Wuts et al. 2025) writes patches before training: one a lesion (its box with a
margin of 10 voxels, grown to at least 4/3 of the network's patch) and background patches of that
size (sliding window, 50 % overlap, no lesion voxel), as compressed NIfTI. Each epoch loads every
lesion patch and as many background patches into memory and crops each at random.

Ours prepares every exam once into a compressed memory-mapped file and cuts lesion and background
patches from it. Both give one patch a lesion and one background patch each, from the same prepared
arrays, in one process with one thread. Two more rows bound the comparison: patches of the
reference kept in memory for good (no background that is new), and our sampler on plain arrays
(``.npy``, memory-mapped). Cold: files thrown out of the page cache before the first epoch.

The claim: after the first epoch at least 10 times the reference's patches per second, or at most a
fifth of its disk at equal speed. Data are simulated, with noise in every voxel, since noise decides
how far images can be compressed. Prints a table and writes it as JSON.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from osteosap.exam import write_exam
from osteosap.inference.prepare import InputConfig
from osteosap.manifest import software_versions, write_json
from osteosap.simulate import SimulationConfig, simulate_exam
from osteosap.training.augmentation import AugmentationConfig, augment
from osteosap.training.cases import find_cases
from osteosap.training.data import TrainingExam, load_exams
from osteosap.training.sampler import LesionSampler, LesionSamplingConfig, cut
from osteosap.volume import Volume

GEOMETRIES = ((2.0, 96), (4.0, 64))
"""Spacing (mm) and edge of the patch: the paper's, and that of our CPU recipe."""

MARGIN = 10
SNR = {"t1": 65.0, "b1000": 30.0}
"""Brightest tissue over the noise of one voxel, as the simulator's scanner has it."""

AUGMENTATION = AugmentationConfig(flip=(0.5, 0.5, 0.5), rotate90=0.2)
FASTER, SMALLER = 10.0, 0.2
SAMPLING = LesionSamplingConfig(background_ratio=1.0)

Patch = tuple[torch.Tensor, torch.Tensor]
Arrays = tuple[np.ndarray, np.ndarray]


@dataclass
class Row:
    """What one way took: seconds to write its files, bytes, and patches per second by epoch."""

    way: str
    megabytes: float
    write_seconds: float
    memory_megabytes: float = 0.0
    augmented: bool = False
    speeds: list[float] = field(default_factory=list)
    cpu_speeds: list[float] = field(default_factory=list)

    def as_json(self) -> dict:
        """For the record."""
        warm = [round(speed, 1) for speed in self.speeds[1:]]
        return {
            "way": self.way,
            "augmentation": self.augmented,
            "megabytes_on_disk": round(self.megabytes, 1),
            "megabytes_in_memory": round(self.memory_megabytes, 1),
            "seconds_to_write": round(self.write_seconds, 1),
            "patches_per_second_cold": round(self.speeds[0], 1),
            "patches_per_second_warm": warm,
            "patches_per_second_warm_median": round(float(np.median(warm)), 1),
            "patches_per_cpu_second_warm_median": round(float(np.median(self.cpu_speeds[1:])), 1),
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="Folder for sampling.json.")
    parser.add_argument("--exams", type=int, default=3)
    parser.add_argument("--lesions", type=int, default=8, help="Lesions an exam.")
    parser.add_argument("--epochs", type=int, default=4, help="The first is cold, the rest warm.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="sampling-") as name:
        work = Path(name)
        simulate(work / "exams", options.exams, options.lesions)
        tables = [compare(work, mm, edge, epochs=options.epochs) for mm, edge in GEOMETRIES]
    content = {
        "what": "lesion and background patches (1:1), one process, one thread",
        "simulated": True,
        "exams": options.exams,
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
        "versions": software_versions(),
        "geometries": tables,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "sampling.json", content)
    print("\n\n".join(markdown(table) for table in tables))
    return 0 if all(table["holds"] for table in tables) else 1


def simulate(folder: Path, exams: int, lesions: int) -> None:
    for seed in range(300, 300 + exams):
        print(f"simulating exam {seed - 299} of {exams}", file=sys.stderr)
        exam = simulate_exam(SimulationConfig(seed=seed, lesions=lesions), acquire=False).exam
        images = np.stack(
            [noisy(exam.images.channel(name), snr, seed=seed) for name, snr in SNR.items()]
        )
        volume = Volume(images, exam.images.affine, tuple(SNR))
        write_exam(replace(exam, images=volume), folder / f"exam_{seed}", simulated=True)


def noisy(image: np.ndarray, snr: float, *, seed: int) -> np.ndarray:
    """Magnitude of an image with complex noise in every voxel."""
    rng = np.random.default_rng(seed)
    sd = float(np.quantile(image[image > 0], 0.99)) / snr
    real, imaginary = (rng.normal(0.0, sd, image.shape).astype(np.float32) for _ in range(2))
    return np.hypot(image + real, imaginary)


def compare(work: Path, spacing_mm: float, edge: int, *, epochs: int) -> dict:
    """All ways at one spacing and patch."""
    print(f"{spacing_mm:g} mm, patches of {edge}", file=sys.stderr)
    patch = (edge, edge, edge)
    config = InputConfig(spacing_mm=(spacing_mm,) * 3)
    cases = find_cases(work / "exams")
    store, arrays, patches = (work / f"{kind}_{edge}" for kind in ("store", "npy", "nifti"))
    started = time.monotonic()
    exams = load_exams(cases, config, needs="lesions", store=store)
    prepared = time.monotonic() - started
    whole = [in_memory(exam) for exam in exams]

    started = time.monotonic()
    plain = [as_npy(exam, arrays / str(n)) for n, exam in enumerate(whole)]
    npy_seconds = time.monotonic() - started
    started = time.monotonic()
    reference = Reference(whole, patches, patch)
    nifti_seconds = time.monotonic() - started
    del whole

    def reopened() -> Callable[[int], Iterator[Patch]]:
        again = load_exams(cases, config, needs="lesions", store=store)
        return ours(again, patch)

    kept: list[Arrays] = []
    rows = []
    for augmented in (False, True):
        rows += [
            Row("ours: store, cut on the fly", size_of(store), prepared, augmented=augmented),
            Row("our sampler on plain .npy", size_of(arrays), npy_seconds, augmented=augmented),
            Row("reference: NIfTI patches, each epoch", size_of(patches), nifti_seconds,
                augmented=augmented),
            Row("reference, kept in memory", size_of(patches), nifti_seconds, augmented=augmented),
        ]  # fmt: skip
        run(rows[-4], reopened, epochs, cold=store)
        run(rows[-3], lambda: ours(plain, patch), epochs, cold=arrays)
        run(rows[-2], lambda: reference.epoch, epochs, cold=patches)
        rows[-2].memory_megabytes = rows[-1].memory_megabytes = reference.megabytes_of_epoch
        run(rows[-1], lambda: reference.kept(kept), epochs, cold=patches)
    return verdict(rows, spacing_mm, edge, lesions=len(reference.lesions))


def run(
    row: Row, start: Callable[[], Callable[[int], Iterator[Patch]]], epochs: int, *, cold: Path
) -> None:
    """Patches per second of each epoch; opening counts with the first."""
    forget(cold)
    epoch: Callable[[int], Iterator[Patch]] | None = None
    for number in range(epochs):
        started, cpu = time.perf_counter(), time.process_time()
        epoch = epoch or start()
        count = 0
        for image, reference in epoch(number):
            if row.augmented:
                augment(
                    image,
                    reference[None],
                    config=AUGMENTATION,
                    generator=np.random.default_rng([number, count]),
                )
            count += 1
        row.speeds.append(count / (time.perf_counter() - started))
        row.cpu_speeds.append(count / (time.process_time() - cpu))
    print(f"  {row.way}: {[round(s, 1) for s in row.speeds]} patches/s", file=sys.stderr)


def ours(
    exams: list[TrainingExam], patch: tuple[int, int, int]
) -> Callable[[int], Iterator[Patch]]:
    """Epochs of our sampler."""
    sampler = LesionSampler(exams, patch, config=SAMPLING, seed=0)

    def epoch(number: int) -> Iterator[Patch]:
        for place in sampler.epoch(number):
            exam = exams[place.exam]
            image = torch.from_numpy(cut(exam.images, place.start, patch)).float()
            lesions = cut(exam.lesions, place.start, patch) > 0
            yield image, torch.from_numpy(lesions.astype(np.uint8))

    return epoch


class Reference:
    """Patches written as compressed NIfTI, and epochs of them.

    Parameters
    ----------
    exams
        In memory.
    folder
        For the patches.
    patch
        Size of the network's patch.
    """

    def __init__(
        self, exams: list[TrainingExam], folder: Path, patch: tuple[int, int, int]
    ) -> None:
        folder.mkdir(parents=True)
        self.patch = patch
        least = tuple(-(-4 * side // 3) for side in patch)
        self.lesions: list[Path] = []
        self.background: list[Path] = []
        self.megabytes_of_epoch = 0.0
        for number, exam in enumerate(exams):
            for lesion in exam.index.lesions:
                box = grown(lesion.start, lesion.stop, least, exam.grid.shape)
                self.lesions.append(write_patch(exam, box, folder / f"{number}_l{lesion.id}"))
            for count, box in enumerate(windows(exam.grid.shape, least)):
                if not exam.lesions[box].any():
                    path = folder / f"{number}_b{count}"
                    self.background.append(write_patch(exam, box, path))

    def load(self, number: int) -> list[Arrays]:
        """Every lesion patch and as many background patches, newly drawn, in random order."""
        rng = np.random.default_rng(number)
        n = len(self.lesions)
        drawn = rng.choice(len(self.background), n, replace=len(self.background) < n)
        files = [*self.lesions, *(self.background[i] for i in drawn)]
        cache = [read_patch(files[i]) for i in rng.permutation(len(files))]
        self.megabytes_of_epoch = sum(a.nbytes + b.nbytes for a, b in cache) / 1e6
        return cache

    def crop(self, cache: list[Arrays], number: int) -> Iterator[Patch]:
        """Each patch at random to the network's size."""
        rng = np.random.default_rng([number, 1])
        for image, reference in cache:
            start = tuple(
                int(rng.integers(min(0, n - p), max(0, n - p) + 1))
                for n, p in zip(reference.shape, self.patch, strict=True)
            )
            patch = cut(image, start, self.patch), cut(reference, start, self.patch)
            yield torch.from_numpy(patch[0]), torch.from_numpy(patch[1])

    def epoch(self, number: int) -> Iterator[Patch]:
        """Loaded anew, then cropped."""
        return self.crop(self.load(number), number)

    def kept(self, cache: list[Arrays]) -> Callable[[int], Iterator[Patch]]:
        """Loaded once, cropped every epoch."""
        cache[:] = self.load(0)
        return lambda number: self.crop(cache, number)


def windows(shape: tuple[int, ...], side: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """Boxes that cover an exam, each half over its neighbour; the last ones end at the border."""
    starts = [
        [*range(0, max(1, n - a), max(1, a // 2)), max(0, n - a)]
        for n, a in zip(shape, side, strict=True)
    ]
    for corner in itertools.product(*(sorted(set(axis)) for axis in starts)):
        yield tuple(slice(s, min(n, s + a)) for s, a, n in zip(corner, side, shape, strict=True))


def grown(
    start: tuple[int, ...], stop: tuple[int, ...], least: tuple[int, ...], shape: tuple[int, ...]
) -> tuple[slice, ...]:
    """A box with its margin, at least so large, inside the exam where it fits."""
    sides = []
    for a, b, wanted, n in zip(start, stop, least, shape, strict=True):
        length = min(n, max(wanted, b - a + 2 * MARGIN))
        first = min(max(0, (a + b - length) // 2), n - length)
        sides.append(slice(first, first + length))
    return tuple(sides)


def write_patch(exam: TrainingExam, box: tuple[slice, ...], path: Path) -> Path:
    affine = exam.grid.affine
    for name, image in zip(exam.channels, exam.images, strict=True):
        values = np.ascontiguousarray(image[box], dtype=np.float32)
        nib.save(nib.Nifti1Image(values, affine), f"{path}_{name}.nii.gz")
    mask = (exam.lesions[box] > 0).astype(np.uint8)
    nib.save(nib.Nifti1Image(mask, affine), f"{path}_lesions.nii.gz")
    return path


def read_patch(path: Path) -> Arrays:
    names = [f"{path}_{name}.nii.gz" for name in ("t1", "b1000")]
    images = [np.asarray(nib.load(name).dataobj, dtype=np.float32) for name in names]
    return np.stack(images), np.asarray(nib.load(f"{path}_lesions.nii.gz").dataobj)


def in_memory(exam: TrainingExam) -> TrainingExam:
    arrays = {n: np.asarray(getattr(exam, n)) for n in ("images", "body", "skeleton", "lesions")}
    return replace(exam, **arrays)


def as_npy(exam: TrainingExam, folder: Path) -> TrainingExam:
    """The same arrays, uncompressed on disk and memory-mapped."""
    folder.mkdir(parents=True)
    found = {}
    for name in ("images", "body", "skeleton", "lesions"):
        np.save(folder / f"{name}.npy", getattr(exam, name))
        found[name] = np.load(folder / f"{name}.npy", mmap_mode="r")
    return replace(exam, **found)


def size_of(folder: Path) -> float:
    """MB of all files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def forget(folder: Path) -> None:
    """Ask the system to drop the files from its page cache."""
    for path in folder.rglob("*"):
        if path.is_file() and hasattr(os, "posix_fadvise"):
            handle = os.open(path, os.O_RDONLY)
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def verdict(rows: list[Row], spacing_mm: float, edge: int, *, lesions: int) -> dict:
    """The rows and whether the claim holds for them (without augmentation)."""
    found = [row.as_json() for row in rows]
    mine, _, theirs, kept = found[:4]
    warm = "patches_per_second_warm_median"
    faster = mine[warm] / theirs[warm]
    smaller = mine["megabytes_on_disk"] / theirs["megabytes_on_disk"]
    return {
        "spacing_mm": spacing_mm,
        "patch": edge,
        "lesions": lesions,
        "rows": found,
        "times_as_fast_warm": round(faster, 1),
        "times_as_fast_as_kept_in_memory": round(mine[warm] / kept[warm], 2),
        "share_of_disk": round(smaller, 3),
        "holds": faster >= FASTER or (smaller <= SMALLER and faster >= 1.0),
    }


def markdown(table: dict) -> str:
    lines = [
        f"{table['spacing_mm']:g} mm, patches of {table['patch']}, {table['lesions']} lesions: "
        f"{table['times_as_fast_warm']} times as fast, {table['share_of_disk']:.0%} of the disk",
        "",
        "| way | augmentation | MB on disk | MB in memory | s to write | patches/s cold | warm | "
        "warm, per CPU second |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['way']} | {'on' if row['augmentation'] else 'off'} | "
        f"{row['megabytes_on_disk']} | {row['megabytes_in_memory']} | "
        f"{row['seconds_to_write']} | {row['patches_per_second_cold']} | "
        f"{row['patches_per_second_warm_median']} | {row['patches_per_cpu_second_warm_median']} |"
        for row in table["rows"]
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
