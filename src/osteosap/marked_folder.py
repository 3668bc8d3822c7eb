"""Folders of simulated data: only what an earlier call has on record is ever replaced.

The marker is a JSON file that says ``simulated`` and lists the files of its folder.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from osteosap.errors import InputError
from osteosap.ingest import MARKER
from osteosap.manifest import move_into_place, read_json, require_folder, require_own

__all__ = ["files_below", "replace_marked", "require_marked", "says_simulated"]


def says_simulated(marker: Path) -> bool:
    """Whether a JSON file of an earlier call says that it is simulated."""
    with contextlib.suppress(InputError):
        return marker.is_file() and read_json(marker).get("simulated") is True
    return False


def _recorded_files(out: Path, marker: str) -> set[str]:
    """Files that an earlier call put on record in its marker."""
    files = read_json(out / marker).get("files") if says_simulated(out / marker) else None
    if not isinstance(files, list):
        return set()
    return {marker, *(name for name in files if isinstance(name, str))}


def files_below(folder: Path) -> list[str]:
    """Every file in a folder of any nesting, relative to it, in order."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def require_marked(out: Path, parts: Sequence[str], *, marker: str = MARKER) -> None:
    """Refuse a folder where ``parts`` or a marker are not, by the marker, from an earlier call."""
    require_folder(out)
    require_own(out, [*parts, marker], _recorded_files(out, marker))


def replace_marked(aside: Path, out: Path, *, marker: str = MARKER) -> None:
    """Put what lies aside in the place of all that an earlier call wrote.

    The marker goes last and comes first: whatever is there is on record, even after a crash.
    Files of others stay where they are.
    """
    parts = sorted(p.name for p in aside.iterdir() if p.name != marker)
    require_marked(out, parts, marker=marker)
    own = _recorded_files(out, marker)
    for name in sorted(own - {marker}):
        (out / name).unlink(missing_ok=True)
    folders = {parent for name in own for parent in (out / name).parents if out in parent.parents}
    for folder in sorted(folders, key=lambda f: -len(f.parts)):
        with contextlib.suppress(OSError):  # not empty: something of the user's is in it
            folder.rmdir()
    (out / marker).unlink(missing_ok=True)
    for name in (marker, *parts):
        move_into_place(aside / name, out / name)
