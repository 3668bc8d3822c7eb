"""What encoders make of lesion and background patches before any fine-tuning (SPEC 6).

Bottleneck features of one patch a lesion and of as many background patches, averaged over the
patch; t-SNE; distances between and within the classes (Wuts et al. 2026,
doi 10.1016/j.jbo.2026.100745).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from osteosap.config import StageConfig
from osteosap.errors import CheckpointError
from osteosap.inference.prepare import InputConfig
from osteosap.inference.sliding import choose_device
from osteosap.manifest import write_bytes, write_json, write_text
from osteosap.models.checkpoint import Checkpoint, load_checkpoint
from osteosap.models.networks import build_network
from osteosap.training.bottleneck import BottleneckEncoder, encoder_of
from osteosap.training.cases import TrainingCase, require_cases
from osteosap.training.data import TrainingExam, load_exams
from osteosap.training.loop import Progress
from osteosap.training.sampler import LesionSampler, LesionSamplingConfig, PatchPlace, cut
from osteosap.training.separation import Separation, embed, separation

__all__ = ["EncoderFeatures", "FeatureConfig", "compare_encoders", "write_features"]


class FeatureConfig(StageConfig):
    """Which patches are compared.

    ``random`` adds an encoder that never learnt; ``hard`` is the share of background patches on
    bright b1000 voxels (0 as in the paper); ``patch`` None takes that of the first file.
    """

    perplexity: float = Field(default=15.0, gt=0.0)
    random: bool = True
    hard: float = Field(default=0.0, ge=0.0, le=1.0)
    patch: tuple[int, int, int] | None = None
    batch_size: int = Field(default=4, ge=1)
    device: str = "auto"
    seed: int = Field(default=42, ge=0)


@dataclass(frozen=True)
class EncoderFeatures:
    """Patches as one encoder sees them.

    Parameters
    ----------
    name
        ``ssl``, ``sap``, ``random`` or what the file is.
    features
        float32 (N, F).
    plane
        float64 (N, 2) by t-SNE; None where scikit-learn is not installed.
    is_lesion
        bool (N,).
    exam
        int (N,): number of the exam in the list of cases.
    in_features, in_plane
        Distances between and within the classes, in the features and in the plane.
    """

    name: str
    features: npt.NDArray[np.float32]
    plane: npt.NDArray[np.float64] | None
    is_lesion: npt.NDArray[np.bool_]
    exam: npt.NDArray[np.int_]
    in_features: Separation
    in_plane: Separation | None

    def lines(self) -> tuple[str, ...]:
        """The numbers as text, for a figure."""
        found = []
        for what, values in (("features", self.in_features), ("t-SNE", self.in_plane)):
            if values is not None:
                found.append(
                    f"{what}: apart {values.centroid_distance:.3g}, within "
                    f"{values.within_lesion:.3g} | {values.within_background:.3g}, "
                    f"ratio {values.ratio:.2f}"
                )
        return tuple(found)


def compare_encoders(
    weights: Sequence[Path],
    cases: Sequence[TrainingCase],
    *,
    store: Path,
    config: FeatureConfig,
    progress: Progress | None = None,
) -> list[EncoderFeatures]:
    """Features of the same patches by several encoders.

    Parameters
    ----------
    weights
        Files of any task; all must read images prepared alike.
    cases
        With lesion maps.
    store
        Folder of prepared exams.
    config
        Patches and t-SNE.
    progress
        Called with a line and the fraction done.

    Raises
    ------
    CheckpointError
        A file does not fit, or files expect images prepared in different ways.
    TrainingError
        There are too few lesions.
    """
    checkpoints = [load_checkpoint(path) for path in weights]
    preparation = _common_input(checkpoints)
    patch = config.patch or checkpoints[0].metadata.patch
    for checkpoint in checkpoints:
        checkpoint.spec.require_patch(patch)
    require_cases(cases, needs="lesions", channels=preparation.channels)
    exams = load_exams(cases, preparation, needs="lesions", store=store, progress=progress)
    places = _places(exams, patch, config)
    encoders = dict(zip(_names(checkpoints), map(encoder_of, checkpoints), strict=True))
    if config.random:
        torch.manual_seed(config.seed)
        spec = checkpoints[0].spec
        encoders["random"] = BottleneckEncoder(build_network(spec), spec).eval()
    found = []
    for number, (name, encoder) in enumerate(encoders.items()):
        if progress is not None:
            progress("bottleneck features", number / len(encoders))
        features = _features(encoder, exams, places, patch=patch, config=config)
        found.append(_describe(name, features, places, config))
    return found


def write_features(found: Sequence[EncoderFeatures], out: Path, *, simulated: bool) -> None:
    """Write ``features.csv`` (a row a patch), ``features.json`` (distances), ``features.npz``."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["encoder", "patch", "kind", "exam", "tsne_1", "tsne_2"])
    for encoder in found:
        for number, lesion in enumerate(encoder.is_lesion):
            place = (
                ("", "") if encoder.plane is None else map("{:.4f}".format, encoder.plane[number])
            )
            kind = "lesion" if lesion else "background"
            writer.writerow([encoder.name, number, kind, int(encoder.exam[number]), *place])
    write_text(out / "features.csv", text.getvalue())
    content = {
        encoder.name: {
            "features": encoder.in_features.to_json(),
            "tsne": encoder.in_plane.to_json() if encoder.in_plane else None,
            "n_features": encoder.features.shape[1],
        }
        for encoder in found
    }
    write_json(out / "features.json", {"simulated": simulated, "encoders": content})
    arrays: dict[str, Any] = {encoder.name: encoder.features for encoder in found}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_bytes(out / "features.npz", buffer.getvalue())


def _common_input(checkpoints: Sequence[Checkpoint]) -> InputConfig:
    """How all files expect their images; refuses files that differ, since patches would too."""
    if not checkpoints:
        raise CheckpointError("no weight file", remedy="Give at least one with --weights")
    inputs = [
        InputConfig.from_mapping(
            {
                "channels": checkpoint.spec.channels,
                "spacing_mm": checkpoint.metadata.spacing_mm,
                "percentiles": checkpoint.metadata.percentiles,
                "standard": checkpoint.metadata.standard,
            }
        )
        for checkpoint in checkpoints
    ]
    if any(other != inputs[0] for other in inputs):
        spacings = ", ".join(str(i.spacing_mm) for i in inputs)
        raise CheckpointError(
            f"the weight files expect images prepared in different ways (spacing {spacings} mm, "
            "channels, percentiles or standard)",
            remedy="Compare encoders that were trained with the same block 'input'",
        )
    return inputs[0]


def _names(checkpoints: Sequence[Checkpoint]) -> list[str]:
    known = {"skeleton": "sap", "self_supervised": "ssl"}
    names: list[str] = []
    for checkpoint in checkpoints:
        task = checkpoint.metadata.task
        name = known.get(task) or f"lesions ({checkpoint.metadata.arm or 'trained'})"
        same = sum(other.split(" #")[0] == name for other in names)
        names.append(f"{name} #{same + 1}" if same else name)
    return names


def _places(
    exams: Sequence[TrainingExam], patch: tuple[int, int, int], config: FeatureConfig
) -> list[PatchPlace]:
    """One patch a lesion and as many of background, lesions first."""
    sampling = LesionSamplingConfig(background_ratio=1.0, hard=config.hard)
    sampler = LesionSampler(exams, patch, config=sampling, seed=config.seed)
    return sorted(sampler.epoch(0), key=lambda p: (p.lesion == 0, p.exam, p.lesion, p.start))


def _features(
    encoder: BottleneckEncoder,
    exams: Sequence[TrainingExam],
    places: Sequence[PatchPlace],
    *,
    patch: tuple[int, int, int],
    config: FeatureConfig,
) -> npt.NDArray[np.float32]:
    device = choose_device(config.device)
    encoder = encoder.to(device)
    rows = []
    for first in range(0, len(places), config.batch_size):
        batch = places[first : first + config.batch_size]
        images = [cut(exams[p.exam].images, p.start, patch).astype(np.float32) for p in batch]
        with torch.inference_mode():
            rows.append(encoder.pooled(torch.from_numpy(np.stack(images)).to(device)).float().cpu())
    return torch.cat(rows).numpy()


def _describe(
    name: str,
    features: npt.NDArray[np.float32],
    places: Sequence[PatchPlace],
    config: FeatureConfig,
) -> EncoderFeatures:
    is_lesion = np.array([place.lesion > 0 for place in places])
    in_features = separation(features, is_lesion)
    plane = embed(features, perplexity=config.perplexity, seed=config.seed)
    return EncoderFeatures(
        name=name,
        features=features,
        plane=plane,
        is_lesion=is_lesion,
        exam=np.array([place.exam for place in places]),
        in_features=in_features,
        in_plane=separation(plane, is_lesion) if plane is not None else None,
    )
