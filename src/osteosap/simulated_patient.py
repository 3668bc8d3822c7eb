"""A simulated patient over time on disk: one study a time point, and what each lesion did."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from osteosap import __version__
from osteosap.config import canonical_hash
from osteosap.errors import ConfigError
from osteosap.manifest import read_json, replace_on_success, write_json, write_text
from osteosap.marked_folder import files_below, replace_marked, require_marked
from osteosap.simulated_study import FORMATS, recorded_config, simulate_to_folder

if TYPE_CHECKING:
    from osteosap.simulate import SimulationConfig

__all__ = ["simulate_patient_to_folder"]

_COURSE = ("course.json", "course.csv")


def simulate_patient_to_folder(
    config: SimulationConfig,
    out: Path,
    *,
    formats: Sequence[str] = FORMATS,
    progress: Callable[[str, float], None] | None = None,
) -> None:
    """Simulate every time point of one patient, and say what each lesion did.

    ``out/time_0``, ``out/time_1``, ... are as :func:`simulate_to_folder` writes them; a lesion has
    the same number in all of them. ``out/course.csv`` and ``course.json`` hold a row for every
    lesion and time point: course, volume (mL) and ADC (um2/s), empty where it is not there, and
    their change against the first time point at which it was.

    Raises
    ------
    ConfigError, OutputError
        As for :func:`simulate_to_folder`.
    """
    if config.timepoints < 2 or config.timepoint:
        raise ConfigError(
            f"{config.timepoints} time points and the time point {config.timepoint} for a patient "
            "over time",
            remedy="Give at least two time points, and leave 'timepoint' out",
        )
    report = progress or _silent
    names = [f"time_{timepoint}" for timepoint in range(config.timepoints)]
    require_marked(out, [*names, *_COURSE], marker=_COURSE[0])
    with replace_on_success(out) as aside:
        tables = []
        for timepoint, name in enumerate(names):

            def part(what: str, fraction: float, done: int = timepoint) -> None:
                report(f"time {done}: {what}", (done + fraction) / config.timepoints)

            one = config.model_copy(update={"timepoint": timepoint})
            simulate_to_folder(one, aside / name, formats=formats, progress=part)
            tables.append(read_json(aside / name / "truth" / "truth.json")["lesions"])
        _write_course(list(_course_rows(tables)), aside, config)
        replace_marked(aside, out, marker=_COURSE[0])


def _write_course(rows: list[dict[str, Any]], folder: Path, config: SimulationConfig) -> None:
    """The course as a table and, with the record of all files of the patient, as JSON."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(_COURSE_COLUMNS), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / _COURSE[1], text.getvalue())
    content = {
        "simulated": True,
        "osteosap": __version__,
        "config_hash": canonical_hash(recorded_config(config)),
        "rows": rows,
        "files": files_below(folder),
    }
    write_json(folder / _COURSE[0], content)


_COURSE_COLUMNS = (
    "lesion_id", "timepoint", "bone", "course", "present", "volume_ml", "adc_um2_per_s",
    "volume_change_percent", "adc_change_percent",
)  # fmt: skip


def _course_rows(tables: Sequence[list[dict[str, Any]]]) -> Iterable[dict[str, Any]]:
    """One row a lesion and time point, lesions in order."""
    by_time = [{one["id"]: one for one in table} for table in tables]
    for number in sorted({key for table in by_time for key in table}):
        seen = [table.get(number) for table in by_time]
        first = next(one for one in seen if one is not None)
        for timepoint, one in enumerate(seen):
            row = dict.fromkeys(_COURSE_COLUMNS, None) | {
                "lesion_id": number,
                "timepoint": timepoint,
                "bone": first["bone"],
                "course": first["course"],
                "present": one is not None,
            }
            if one is not None:
                for name, digits in (("volume_ml", 4), ("adc_um2_per_s", 1)):
                    row[name] = round(one[name], digits)
                    change = 100.0 * (one[name] / first[name] - 1.0)
                    row[f"{name.split('_')[0]}_change_percent"] = round(change, 1)
            yield row


def _silent(_message: str, _fraction: float) -> None:
    pass
