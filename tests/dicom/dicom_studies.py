"""Small simulated studies, and tools to change them as scanners and users do."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from scipy.spatial.transform import Rotation

from osteosap.exam import StationImage
from osteosap.geometry import Affine, make_affine, to_ras
from osteosap.volume import Volume

SHAPE = (10, 8, 6)
SPACING_MM = (3.0, 2.0, 5.0)
B_VALUES = (0.0, 50.0, 1000.0)


def make_images(
    affines: Iterable[Affine] | None = None,
    *,
    b_values: Iterable[float] = B_VALUES,
    adc: bool = False,
) -> list[StationImage]:
    """T1 and diffusion images of each station; intensities are random, but fixed."""
    rng = np.random.default_rng(7)
    images = []
    for affine in affines if affines is not None else (station_affine(0), station_affine(1)):
        t1 = rng.uniform(0, 800, SHAPE).astype(np.float32)
        images.append(StationImage(Volume.single(t1, affine, "t1"), "t1", source="simulated"))
        true_adc = rng.uniform(400, 2500, SHAPE).astype(np.float32)
        b0 = rng.uniform(100, 300, SHAPE).astype(np.float32)
        for b in b_values:
            signal = b0 * np.exp(-b * true_adc * 1e-6)
            volume = Volume.single(signal, affine, f"b{b:g}")
            images.append(StationImage(volume, "dwi", b, "dwi", "simulated"))
        if adc:
            volume = Volume.single(true_adc, affine, "adc")
            images.append(StationImage(volume, "adc", source="simulated"))
    return images


def station_affine(number: int) -> Affine:
    """Stations from head to foot, one slice of overlap."""
    step = (SHAPE[2] - 1) * SPACING_MM[2]
    return make_affine(SPACING_MM, (-12.0, -7.0, 100.0 - number * step))


def oblique_affine(degrees: tuple[float, float, float] = (12.0, -7.0, 20.0)) -> Affine:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() * SPACING_MM
    affine[:3, 3] = 31.25, -64.5, 1234.567
    return affine


def assert_same_images(written: list[StationImage], read: tuple[StationImage, ...]) -> None:
    """Equal affines and, up to one factor a kind and half a grey level, equal voxels."""
    assert len(read) == len(written)
    for kind in {i.kind for i in written}:
        top = max(float(i.volume.array.max()) for i in written if i.kind == kind)
        factor = 1.0 if kind == "adc" else 4095 / top
        for one in (i for i in written if i.kind == kind):
            expected, affine = to_ras(one.volume.array[0], one.volume.affine)
            matches = [
                i
                for i in read
                if (i.kind, i.b_value_s_per_mm2) == (kind, one.b_value_s_per_mm2)
                and np.allclose(i.volume.affine, affine, atol=1e-6)
            ]
            assert len(matches) == 1
            assert matches[0].volume.array.shape[1:] == expected.shape
            assert np.abs(matches[0].volume.array[0] - expected * factor).max() <= 0.51


def edit(files: Iterable[Path], change: Callable[[Dataset], None]) -> None:
    """Rewrite files after a change of their datasets."""
    for path in files:
        dataset = pydicom.dcmread(path)
        change(dataset)
        dataset.save_as(path)


def files_of(folder: Path, kind: str) -> list[Path]:
    """Files of all series of a kind in a study that ``write_study`` wrote."""
    return sorted(folder.glob(f"*_{kind}/*.dcm"))


ENHANCED_SOP_CLASS = "1.2.840.10008.5.1.4.1.1.4.1"


def to_enhanced(files: Iterable[Path], target: Path, *, shuffle: bool = True) -> Path:
    """One enhanced multi-frame file from the classic files of a series; the latter are deleted.

    What all frames share stands in the shared functional groups, the rest with each frame. Frames
    are stored in a random but fixed order: nothing says that they lie as the classic files do.
    """
    paths = list(files)
    datasets = [pydicom.dcmread(path) for path in paths]
    if shuffle:
        order = np.random.default_rng(3).permutation(len(datasets))
        datasets = [datasets[i] for i in order]
    first = datasets[0]
    made = Dataset()
    for keyword in _TOP_LEVEL:
        if keyword in first:
            made[keyword] = first[keyword]
    made.SOPClassUID = ENHANCED_SOP_CLASS
    made.SOPInstanceUID = f"{first.SOPInstanceUID[:-2]}99"
    made.InstanceNumber = 1
    made.NumberOfFrames = len(datasets)
    made.ImageType = ["ORIGINAL", "PRIMARY", "MIXED", "NONE"]
    sequences = first.get("ScanningSequence", [])
    words = [sequences] if isinstance(sequences, str) else list(sequences)
    made.EchoPulseSequence = "GRADIENT" if "GR" in words else "SPIN"
    made.EchoPlanarPulseSequence = "YES" if "EP" in words else "NO"
    made.PulseSequenceName = first.get("SequenceName", "")
    made.SharedFunctionalGroupsSequence = [_shared_groups(first)]
    made.PerFrameFunctionalGroupsSequence = [_frame_groups(d) for d in datasets]
    made.PixelData = np.stack([d.pixel_array for d in datasets]).astype("<u2").tobytes()
    made.file_meta = FileMetaDataset()
    made.file_meta.MediaStorageSOPClassUID = ENHANCED_SOP_CLASS
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for path in paths:
        path.unlink()
    made.save_as(target, enforce_file_format=True)
    return target


_TOP_LEVEL = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate",
    "StudyTime", "StudyID", "AccessionNumber", "FrameOfReferenceUID", "Manufacturer", "Modality",
    "SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "ProtocolName", "Rows", "Columns",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel",
    "PhotometricInterpretation",
)  # fmt: skip


def _shared_groups(first: Dataset) -> Dataset:
    groups = Dataset()
    groups.PixelMeasuresSequence = [
        _item(first, "PixelSpacing", "SliceThickness", "SpacingBetweenSlices")
    ]
    groups.PlaneOrientationSequence = [_item(first, "ImageOrientationPatient")]
    groups.MRTimingAndRelatedParametersSequence = [_item(first, "RepetitionTime", "FlipAngle")]
    groups.MREchoSequence = [Dataset()]
    groups.MREchoSequence[0].EffectiveEchoTime = float(first.EchoTime)
    groups.MRFOVGeometrySequence = [Dataset()]
    groups.MRFOVGeometrySequence[0].InPlanePhaseEncodingDirection = "COLUMN"
    return groups


def _frame_groups(dataset: Dataset) -> Dataset:
    groups = Dataset()
    groups.FrameContentSequence = [Dataset()]
    groups.FrameContentSequence[0].FrameAcquisitionNumber = dataset.AcquisitionNumber
    groups.PlanePositionSequence = [_item(dataset, "ImagePositionPatient")]
    groups.MRImageFrameTypeSequence = [Dataset()]
    groups.MRImageFrameTypeSequence[0].FrameType = list(dataset.ImageType)
    groups.MRImageFrameTypeSequence[0].ComplexImageComponent = "MAGNITUDE"
    if "DiffusionBValue" in dataset:
        item = Dataset()
        item.DiffusionDirectionality = dataset.get("DiffusionDirectionality", "ISOTROPIC")
        if dataset.DiffusionBValue or item.DiffusionDirectionality != "NONE":
            item.DiffusionBValue = dataset.DiffusionBValue
        groups.MRDiffusionSequence = [item]
    item = Dataset()
    item.RescaleSlope = dataset.get("RescaleSlope", "1")
    item.RescaleIntercept = dataset.get("RescaleIntercept", "0")
    item.RescaleType = "US"
    groups.PixelValueTransformationSequence = [item]
    return groups


def _item(dataset: Dataset, *keywords: str) -> Dataset:
    item = Dataset()
    for keyword in keywords:
        item[keyword] = dataset[keyword]
    return item
