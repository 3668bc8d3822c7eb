"""A weight file in a few lines of text."""

from __future__ import annotations

from collections.abc import Iterable

from osteosap.models.checkpoint import Checkpoint, CheckpointMetadata
from osteosap.models.foreign import ForeignFile, Imported
from osteosap.models.networks import NetworkSpec

__all__ = ["Row", "rows_of_checkpoint", "rows_of_foreign", "rows_of_import", "rows_of_tensors"]

Row = tuple[str, str]
"""What it is, and its value."""

SETTINGS = {
    "dynunet": ("filters", "residual", "deep_supervision", "dropout"),
    "swin_unetr": ("feature_size", "drop_rate", "attention_drop_rate", "drop_path_rate", "merging"),
    "segresnet": ("initial_filters", "blocks", "dropout"),
}
"""Fields of a spec that mean something for an architecture; those at 0 are not shown."""

NAMED = 12
"""So many names of a list are shown."""


def rows_of_checkpoint(checkpoint: Checkpoint) -> list[Row]:
    """What a file of ours says of itself; settings that mean nothing for it are left out."""
    metadata = checkpoint.metadata
    n_parameters = sum(t.numel() for t in checkpoint.state.values())
    rows = [
        ("task", metadata.task.replace("_", "-")),
        ("classes", ", ".join(metadata.classes) or "none (an encoder alone)"),
        ("network", _network(checkpoint.spec)),
        ("weights", f"{n_parameters:,} parameters in {len(checkpoint.state)} tensors"),
        *_input_rows(checkpoint.spec, metadata),
        *_training_rows(metadata),
        ("code", " ".join(filter(None, (metadata.code_version, metadata.git_sha or "")))),
        ("sha256", checkpoint.sha256),
    ]
    return [(name, value) for name, value in rows if value]


def rows_of_foreign(file: ForeignFile) -> list[Row]:
    """What lies in a file of another program: its network, if known, and the tensors by module."""
    network = file.recognised()
    n_parameters = sum(t.numel() for t in file.state.values())
    others = [f"{key} ({kind})" for key, kind in file.others.items()]
    rows = [
        ("file", "of another program; nothing in it was run"),
        ("network", network.describe() if network else "none that osteosap knows"),
        ("weights", f"{n_parameters:,} numbers in {len(file.state)} tensors"),
        ("found under", file.container or "the top"),
        ("beside them", _some(others)),
        ("sha256", file.sha256),
    ]
    modules: dict[str, list[str]] = {}
    for name in file.state:
        modules.setdefault(_module_of(name), []).append(name)
    for module, names in modules.items():
        count = sum(file.state[n].numel() for n in names)
        rows.append((module, f"{len(names)} tensors, {count:,} numbers"))
    return rows


def rows_of_tensors(file: ForeignFile) -> list[Row]:
    """Every tensor with its shape and type."""
    tensors = file.describe()["tensors"]
    return [
        (name, f"{' x '.join(map(str, t['shape'])) or 'scalar'} {t['type']}")
        for name, t in tensors.items()
    ]


def rows_of_import(imported: Imported) -> list[Row]:
    """How much of a file fitted, and what did not."""
    report = imported.report
    share = report.parameters_matched / report.parameters if report.parameters else 0.0
    return [
        ("file's network", imported.network),
        ("tensors", f"{len(report.matched)} of {report.total} matched ({report.fraction:.1%})"),
        (
            "parameters",
            f"{report.parameters_matched:,} of {report.parameters:,} matched ({share:.1%})",
        ),
        ("missing", _some(report.missing)),
        ("reshaped", _some(report.reshaped)),
        ("not used", _some(report.unexpected)),
        *(("note", remark) for remark in imported.remarks),
    ]


def _network(spec: NetworkSpec) -> str:
    values = spec.to_mapping()
    parts: list[str] = [spec.architecture]
    for name in SETTINGS[spec.architecture]:
        value = values[name]
        if value in (0, False):
            continue
        text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
        parts.append(name if value is True else f"{name.replace('_', ' ')} {text}")
    return ", ".join(parts)


def _input_rows(spec: NetworkSpec, metadata: CheckpointMetadata) -> list[Row]:
    spacing, patch = (
        " x ".join(f"{v:g}" for v in v3) for v3 in (metadata.spacing_mm, metadata.patch)
    )
    low, high = metadata.percentiles
    return [
        ("channels", ", ".join(spec.channels)),
        ("grid", f"{spacing} mm, {metadata.orientation}; patches of {patch} voxels"),
        ("scaling", f"percentiles {low:g} to {high:g} of the body to 0 and 1"),
        ("histogram standard", "of its cohort" if metadata.standard else "none"),
    ]


def _training_rows(metadata: CheckpointMetadata) -> list[Row]:
    threshold = "" if metadata.threshold is None else f"{metadata.threshold:g}"
    trained = ""
    if metadata.steps:
        people = metadata.n_training_people, metadata.n_validation_people
        of, other = (f" of {n} people" if n else "" for n in people)
        trained = (
            f"{metadata.steps} steps on {metadata.n_training_exams} exams{of}, "
            f"{metadata.n_validation_exams}{other} held out, seed {metadata.seed}"
        )
    scores = [
        f"{name} {'undefined' if value is None else format(value, 'g')}"
        for name, value in metadata.validation.items()
        if "_at_" not in name
    ]
    origin = ", ".join(f"{key} {value}" for key, value in metadata.origin.items())
    return [
        ("threshold", threshold),
        ("arm", metadata.arm),
        ("training data", metadata.training_data),
        ("trained", trained),
        ("started from", metadata.initial_weights_sha256 or ""),
        ("validation", ", ".join(scores)),
        ("imported from", origin),
        ("never trained", _some(metadata.untrained) if metadata.untrained else ""),
        ("recipe", metadata.recipe_hash),
    ]


def _module_of(name: str) -> str:
    """First two parts of a name, or one where the second is the tensor's own."""
    parts = name.split(".")
    return ".".join(parts[: min(2, max(1, len(parts) - 1))])


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    if not listed:
        return "none"
    text = ", ".join(listed[:NAMED])
    return text if len(listed) <= NAMED else f"{text}, and {len(listed) - NAMED} more"
