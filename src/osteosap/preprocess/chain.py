"""From station images to one exam on the T1 grid; every step leaves a line in the record.

::

    T1:  bias -> align stations -> match intensities -> stitch -> body mask
    DWI: choose protocol -> eddy currents -> ADC fit -> bias, a first guess (lowest b, for all)
         -> register every station to T1 -> bias again, in muscle -> match intensities
         -> b1000 and ADC on the T1 grid
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from osteosap.errors import StudyError
from osteosap.exam import HANDED_OVER, StationImage
from osteosap.preprocess.b1000 import B1000Choice, choose_b1000, choose_group
from osteosap.preprocess.checks import check_image
from osteosap.preprocess.config import PreprocessConfig
from osteosap.preprocess.diffusion import Diffusion, bring_dwi_to_t1, view_of
from osteosap.preprocess.groups import DwiGroup, collect_dwi_groups, complete_group, maps_of
from osteosap.preprocess.quality import QualityReport, assess, chain_record
from osteosap.preprocess.record import Job, Progress
from osteosap.preprocess.target import Target, make_target
from osteosap.volume import Volume

__all__ = ["AssembledExam", "assemble_exam"]


@dataclass(frozen=True)
class AssembledExam:
    """One examination on the T1 grid.

    Parameters
    ----------
    images
        Channels ``t1``, ``b1000`` and, where it can be had, ``adc`` (um2/s); float32. 0 outside a
        channel's field of view.
    body
        uint8, channel ``body``.
    record
        JSON-serialisable: ``steps`` in order (what was done, why, numbers), ``seams`` (how well
        neighbouring stations agree), ``quality`` (what was looked at, against what is expected;
        :mod:`~osteosap.preprocess.quality`), ``b1000`` and ``adc`` (where they come from),
        ``coverage`` (share of the body inside the DWI field of view), ``dwi_outside_t1`` (share of
        the tissue on the DWI that lies outside the T1), ``settings``, ``warnings``.
    warnings
        What a reader should know.
    target, diffusion
        What lies behind: stations with their bias fields, motions and scales.
    quality
        What was looked at.
    """

    images: Volume
    body: Volume
    record: dict[str, object]
    warnings: tuple[str, ...]
    target: Target
    diffusion: Diffusion
    quality: QualityReport

    @property
    def to_look_at(self) -> tuple[str, ...]:
        """What the checks of quality say of what lies outside its expectation."""
        return self.quality.warnings

    @property
    def snapshots(self) -> dict[str, npt.NDArray[np.float32]]:
        """Small pictures before and after, by name (:mod:`~osteosap.preprocess.snapshots`)."""
        return self.target.pictures | self.diffusion.pictures

    def stations(self) -> dict[str, Volume]:
        """Corrected stations by file name, from foot to head, where they were (rigidly) moved to.

        ``t1_1``, ``dwi_1_b0``, ``adc_1`` (um2/s) and so on; scales are not applied.
        """
        kept = {f"t1_{n + 1}": one.volume for n, one in enumerate(self.target.stations)}
        for n, station in enumerate(self.diffusion.stations):
            affine = station.grid.affine
            if station.alignment is not None:
                affine = np.asarray(np.linalg.inv(station.alignment.rigid) @ affine)
            for b, volume in station.images.items():
                kept[f"dwi_{n + 1}_b{b:g}"] = Volume.single(volume.array[0], affine, "dwi")
            if station.adc is not None:
                kept[f"adc_{n + 1}"] = Volume.single(station.adc, affine, "adc")
        return kept


def assemble_exam(
    images: Sequence[StationImage],
    config: PreprocessConfig | None = None,
    *,
    progress: Progress | None = None,
    threads: int | None = None,
) -> AssembledExam:
    """Correct, align and stitch stations, make b1000 and ADC, and bring all to the T1 grid.

    Parameters
    ----------
    images
        T1 and DWI of one or more stations, optionally ADC maps of the scanner; any order. An
        exam that is already stitched is one T1, one DWI and perhaps one ADC image.
    config
        Settings; None means all defaults.
    progress
        Called with what is being done and the fraction of it that is done.
    threads
        Stations worked on at once; None: as many as there are cores. The result is the same.
        Meanwhile BLAS has one thread in the whole process: for several exams at once, use
        processes.

    Returns
    -------
    exam
        On the stitched T1's grid; a single T1 station keeps its own grid.

    Raises
    ------
    StudyError
        There is no T1 or no DWI.
    VolumeError
        Voxel values cannot be right, or no b1000 can be had.
    GeometryError
        Stations with a gap between them, or T1 and DWI that do not show the same body part.
    """
    job = Job(config or PreprocessConfig(), threads=threads)
    job.progress = progress or job.progress
    # Stations are worked on side by side: threads of BLAS on top of that only get in their way,
    # and sums would depend on how many cores there are.
    with threadpool_limits(1, user_api="blas"):
        return _assembled(images, job)


def _assembled(images: Sequence[StationImage], job: Job) -> AssembledExam:
    checked = _check(images, job)
    groups, notes = collect_dwi_groups(checked)
    job.warn(*notes)
    group, choice = _choose(groups, job)
    target = make_target(checked, job)
    view = view_of(group, target, job)
    maps = maps_of(group, groups, checked)
    diffusion = bring_dwi_to_t1(group, choice, target, maps=maps, job=job)
    channels = {"t1": target.t1.array[0], "b1000": diffusion.b1000}
    if diffusion.adc is not None:
        channels["adc"] = diffusion.adc
    affine = target.t1.affine
    stacked = Volume(np.stack(list(channels.values())), affine, tuple(channels))
    done = chain_record(job.steps, job.seams)
    quality = assess(stacked, target.body, record=done, config=job.config.quality)
    return AssembledExam(
        stacked,
        Volume.single(target.body.astype(np.uint8), affine, "body"),
        {
            "steps": job.steps,
            "seams": job.seams,
            "quality": quality.to_mapping(),
            "b1000": asdict(choice),
            "adc": diffusion.origin,
            **view,
            "settings": job.config.to_mapping(),
            "warnings": list(job.warnings),
        },
        tuple(job.warnings),
        target,
        diffusion,
        quality,
    )


def _check(images: Sequence[StationImage], job: Job) -> list[StationImage]:
    for kind, title in (("t1", "T1"), ("dwi", "diffusion-weighted (DWI)")):
        if not any(i.kind == kind for i in images):
            found = ", ".join(sorted({i.kind for i in images})) or "nothing"
            raise StudyError(
                f"no {title} images among the input (found: {found}); T1 and DWI are both needed",
                remedy=f"Add the {title} series to the study",
            )
    checked = []
    for image in images:
        good, notes = check_image(image)
        checked.append(good)
        job.warn(*notes)
    return checked


def _choose(groups: Sequence[DwiGroup], job: Job) -> tuple[DwiGroup, B1000Choice]:
    """The DWI protocol to use, completed by others, and where its b1000 comes from."""
    group, why = choose_group(groups, config=job.config)
    group, notes = complete_group(group, groups)
    job.warn(*notes)
    listed, protocols = list(group.b_values), list(group.protocols)
    job.step("DWI protocol", why, b_values_s_per_mm2=listed, protocols=protocols)
    choice = choose_b1000(group.b_values, config=job.config)
    if group.name == HANDED_OVER:
        why = "b1000 was handed over under that name"
        choice = replace(choice, source="handed over", reason=why)
    return group, choice
