"""From station images to one exam on the T1 grid; every step leaves a line in the record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from osteosap.errors import StudyError
from osteosap.exam import HANDED_OVER, StationImage
from osteosap.preprocess.b1000 import choose_b1000, choose_group
from osteosap.preprocess.body import body_mask
from osteosap.preprocess.checks import check_image
from osteosap.preprocess.config import PreprocessConfig
from osteosap.preprocess.diffusion import (
    Target,
    adc_channel,
    b1000_channel,
    fit_dwi,
    place_on,
    stitch_dwi,
)
from osteosap.preprocess.groups import (
    collect_dwi_groups,
    complete_group,
    maps_of,
    select_stations,
)
from osteosap.preprocess.record import Job
from osteosap.preprocess.stations import lay_out
from osteosap.preprocess.stitch import blend, place_stations
from osteosap.volume import Volume

__all__ = ["AssembledExam", "assemble_exam"]


@dataclass(frozen=True)
class AssembledExam:
    """One examination on the T1 grid.

    Parameters
    ----------
    images
        Channels ``t1``, ``b1000`` and, where it can be had, ``adc`` (um2/s); float32, stitched
        intensities as they came from the scanner. 0 outside a channel's field of view.
    body
        uint8, channel ``body``.
    record
        JSON-serialisable: ``steps`` in order (what was done, why, numbers), ``b1000`` and ``adc``
        (where they come from), ``coverage`` (share of the body inside the DWI field of view),
        ``dwi_outside_t1`` (share of the tissue on the DWI that lies outside the T1),
        ``settings``, ``warnings``.
    warnings
        What a reader should know.
    """

    images: Volume
    body: Volume
    record: dict[str, object]
    warnings: tuple[str, ...]


def assemble_exam(
    images: Sequence[StationImage], config: PreprocessConfig | None = None
) -> AssembledExam:
    """Stitch stations, make b1000 and ADC, and bring everything to the T1 grid.

    Parameters
    ----------
    images
        T1 and DWI of one or more stations, optionally ADC maps of the scanner; any order. An
        exam that is already stitched is one T1, one DWI and perhaps one ADC image.
    config
        Settings; None means all defaults.

    Returns
    -------
    exam
        On the stitched T1's grid; a single T1 station is left on its own grid, untouched.

    Raises
    ------
    StudyError
        There is no T1 or no DWI.
    VolumeError
        Voxel values cannot be right, or no b1000 can be had.
    GeometryError
        Stations with a gap between them, or T1 and DWI that do not show the same body part.
    """
    job = Job(config or PreprocessConfig())
    checked = _check(images, job)
    target = _stitch_t1(checked, job)
    groups, notes = collect_dwi_groups(checked)
    job.warn(*notes)
    group, why = choose_group(groups, config=job.config)
    group, notes = complete_group(group, groups)
    job.warn(*notes)
    job.step(
        "DWI protocol",
        why,
        b_values_s_per_mm2=list(group.b_values),
        protocols=list(group.protocols),
    )
    choice = choose_b1000(group.b_values, config=job.config)
    if group.name == HANDED_OVER:
        choice = replace(
            choice, source="handed over", reason="b1000 was handed over under that name"
        )
    dwi, overlay = place_on(stitch_dwi(group, choice, job), target, job)
    fit = fit_dwi(dwi, target, job)
    channels = {
        "t1": target.t1.array[0],
        "b1000": b1000_channel(dwi, fit, target, choice=choice, job=job),
    }
    maps = maps_of(group, groups, checked)
    adc, origin = adc_channel(dwi, fit, target, maps=maps, job=job)
    if adc is not None:
        channels["adc"] = adc
    affine = target.t1.affine
    return AssembledExam(
        Volume(np.stack(list(channels.values())), affine, tuple(channels)),
        Volume.single(target.body.astype(np.uint8), affine, "body"),
        {
            "steps": job.steps,
            "b1000": asdict(choice),
            "adc": origin,
            **overlay,
            "settings": job.config.to_mapping(),
            "warnings": list(job.warnings),
        },
        tuple(job.warnings),
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


def _stitch_t1(images: Sequence[StationImage], job: Job) -> Target:
    stations, notes = select_stations(images, "t1")
    job.warn(*notes)
    layout = lay_out([i.volume.grid for i in stations])
    placed = place_stations([i.volume for i in stations], layout)
    scales = job.scales(placed, layout)
    array = blend(placed, layout.grid.shape, scales=scales.scales)
    sources = sorted({i.source for i in stations if i.source})
    job.stitched("t1", layout, scales, sources=sources)
    body = body_mask(array)
    done = "thresholded the T1, closed gaps, filled holes in axial slices"
    job.step("body mask", done, share_of_volume=round(float(body.mean()), 4))
    return Target(Volume.single(array, layout.grid.affine, "t1"), body)
