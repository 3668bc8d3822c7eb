"""Which reference lesion touches which predicted lesion, and by how many voxels.

Any overlapping voxel is a touch (Wuts et al. 2026). The relation is many to many: one lesion may
be split over several predictions, and one prediction may merge several lesions.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage, sparse
from scipy.sparse import csgraph

from osteosap.errors import ConfigError, GeometryError, VolumeError
from osteosap.geometry import Array

__all__ = ["Matching", "as_components", "label_instances", "match_lesions"]

_RANK = {6: 1, 18: 2, 26: 3}
_SPARSE = 0.02
"""Share of foreground up to which its voxels are joined one by one."""


@dataclass(frozen=True)
class Matching:
    """Sizes of all lesions on both sides and the overlaps between them.

    Parameters
    ----------
    reference, prediction
        Instance id to number of voxels.
    overlaps
        (reference id, prediction id) to number of shared voxels; only pairs that touch.
    """

    reference: dict[int, int]
    prediction: dict[int, int]
    overlaps: dict[tuple[int, int], int]

    def predictions_touching(self, reference_id: int) -> tuple[int, ...]:
        """Ids of the predictions that share a voxel with a reference lesion."""
        return tuple(p for r, p in self.overlaps if r == reference_id)

    def references_touching(self, prediction_id: int) -> tuple[int, ...]:
        """Ids of the reference lesions that share a voxel with a prediction."""
        return tuple(r for r, p in self.overlaps if p == prediction_id)

    def with_min_iou(self, least: float) -> Matching:
        """The same without pairs whose intersection over union is below ``least``."""
        kept = {
            (r, p): n
            for (r, p), n in self.overlaps.items()
            if n / (self.reference[r] + self.prediction[p] - n) >= least
        }
        return replace(self, overlaps=kept)

    def with_lost_references(self, ids: Iterable[int]) -> Matching:
        """The same with reference lesions of no voxel added (lost by resampling): all missed."""
        return replace(self, reference={**self.reference, **dict.fromkeys(ids, 0)})


def label_instances(mask: Array, *, connectivity: int = 26) -> Array:
    """Connected components of a mask.

    Parameters
    ----------
    mask
        Shape (I, J, K); everything that is not 0 is foreground.
    connectivity
        6 (faces), 18 (faces and edges) or 26 (faces, edges and corners).

    Returns
    -------
    instances
        int32, shape (I, J, K), 0 = none, components numbered from 1.

    Raises
    ------
    ConfigError
        Another connectivity.

    Examples
    --------
    >>> import numpy as np
    >>> corner = np.zeros((2, 2, 2), bool)
    >>> corner[0, 0, 0] = corner[1, 1, 1] = True
    >>> int(label_instances(corner).max()), int(label_instances(corner, connectivity=6).max())
    (1, 2)
    """
    if connectivity not in _RANK:
        raise ConfigError(f"connectivity {connectivity}", remedy="Use 6, 18 or 26")
    structure = ndimage.generate_binary_structure(3, _RANK[connectivity])
    instances = np.zeros(mask.shape, np.int32)
    places = np.flatnonzero(mask)
    if places.size > _SPARSE * mask.size:
        ndimage.label(mask != 0, structure=structure, output=instances)
    elif places.size:
        instances.flat[places] = _label_sparse(places, mask.shape, structure)
    return instances


def _label_sparse(
    places: npt.NDArray[np.intp], shape: tuple[int, ...], structure: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int32]:
    """Component of each foreground voxel, numbered as ``ndimage.label`` does.

    Lesions fill a thousandth of a body: joining their voxels alone is several times faster than
    a pass over the whole volume.
    """
    coordinates = np.stack(np.unravel_index(places, shape))
    bounds = np.array(shape)[:, None]
    first, second = [], []
    for offset in np.argwhere(structure) - 1:
        if tuple(offset) <= (0, 0, 0):
            continue  # the other half of the neighbours says the same
        there = coordinates + offset[:, None]
        inside = np.flatnonzero(((there >= 0) & (there < bounds)).all(axis=0))
        wanted = np.ravel_multi_index(tuple(there[:, inside]), shape)
        found = np.minimum(np.searchsorted(places, wanted), places.size - 1)
        joined = places[found] == wanted
        first.append(inside[joined])
        second.append(found[joined])
    rows, columns = np.concatenate(first), np.concatenate(second)
    graph = sparse.coo_array(
        (np.ones(rows.size, dtype=np.int8), (rows, columns)), shape=(places.size,) * 2
    )
    labels = csgraph.connected_components(graph, directed=False)[1]
    return np.asarray(labels + 1, dtype=np.int32)


def as_components(instances: Array, *, connectivity: int = 26) -> Array:
    """Connected components of an instance map; its own ids are kept where they already are.

    A map whose ids are exactly the components comes back unchanged, so that a table written
    next to it stays valid. Otherwise (a binary mask, touching instances, an instance in two
    pieces) components are numbered anew.

    Parameters
    ----------
    instances
        Integers, shape (I, J, K), 0 = none.

    Returns
    -------
    components
        int32, shape (I, J, K).
    """
    components = label_instances(instances, connectivity=connectivity)
    matching = match_lesions(instances, components)
    n = len(matching.overlaps)
    same = n == len(matching.reference) == len(matching.prediction)
    return instances.astype(np.int32, copy=False) if same else components


def match_lesions(reference: Array, prediction: Array) -> Matching:
    """Find all touching pairs of two instance maps in one pass over their voxels.

    Parameters
    ----------
    reference, prediction
        int32 instance maps of one shape (I, J, K), 0 = none; ids need not be consecutive.

    Raises
    ------
    GeometryError
        Shapes differ.
    VolumeError
        A map holds negative ids or is not of integers.
    """
    if reference.shape != prediction.shape:
        raise GeometryError(
            f"the reference has shape {reference.shape}, the prediction {prediction.shape}",
            remedy="Bring both onto one grid first",
        )
    for what, array in (("reference", reference), ("prediction", prediction)):
        if not np.issubdtype(array.dtype, np.integer) or (array.size and array.min() < 0):
            raise VolumeError(
                f"the {what} is no instance map ({array.dtype})",
                remedy="Pass integers, 0 for none and a positive id for each lesion",
            )
    foreground = (reference != 0) | (prediction != 0)
    first = reference[foreground].astype(np.int64)
    second = prediction[foreground].astype(np.int64)
    base = int(second.max(initial=0)) + 1
    codes, counts = np.unique(first * base + second, return_counts=True)
    references: dict[int, int] = {}
    predictions: dict[int, int] = {}
    overlaps: dict[tuple[int, int], int] = {}
    for code, count in zip(codes.tolist(), counts.tolist(), strict=True):
        r, p = divmod(code, base)
        if r:
            references[r] = references.get(r, 0) + count
        if p:
            predictions[p] = predictions.get(p, 0) + count
        if r and p:
            overlaps[r, p] = count
    return Matching(references, dict(sorted(predictions.items())), overlaps)
