"""Which reference lesion touches which predicted lesion, and by how many voxels.

Any overlapping voxel is a touch (Wuts et al. 2026). The relation is many to many: one lesion may
be split over several predictions, and one prediction may merge several lesions.

Lesions fill a thousandth of a body: everything here finds the voxels that are not 0 in one pass
and then looks at those alone.
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

__all__ = [
    "Box",
    "Matching",
    "as_components",
    "boxes_of",
    "foreground",
    "label_instances",
    "match_lesions",
    "sizes_of",
]

Box = tuple[slice, ...]

_RANK = {6: 1, 18: 2, 26: 3}
_INT32 = np.iinfo(np.int32).max
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
    return _labelled(mask, foreground(mask), connectivity)


def foreground(array: Array) -> npt.NDArray[np.intp]:
    """Flat indices (C order, rising) of the voxels that are not 0.

    The pass over the array follows its own order in memory: NIfTI files hold the first axis
    fastest, and going through them against that order takes ten times as long.
    """
    mask = array != 0
    axes = np.argsort(mask.strides, kind="stable")[::-1]
    places = np.flatnonzero(mask.transpose(axes))
    if (np.diff(axes) == 1).all():
        return places
    coordinates = np.unravel_index(places, [mask.shape[axis] for axis in axes])
    turned = tuple(coordinates[place] for place in np.argsort(axes))
    return np.sort(np.ravel_multi_index(turned, mask.shape))


def sizes_of(instances: Array) -> dict[int, int]:
    """Number of voxels of every instance, by rising id."""
    ids, counts = np.unique(_at(instances, foreground(instances)), return_counts=True)
    return dict(zip(ids.tolist(), counts.tolist(), strict=True))


def boxes_of(instances: Array) -> dict[int, Box]:
    """Smallest box of every instance, by rising id (``find_objects`` lists all ids up to the last).

    Examples
    --------
    >>> import numpy as np
    >>> boxes_of(np.array([[[0, 7, 7, 0]]]))
    {7: (slice(0, 1, None), slice(0, 1, None), slice(1, 3, None))}
    """
    places = foreground(instances)
    ids = _at(instances, places)
    order = np.argsort(ids, kind="stable")
    numbers, starts = np.unique(ids[order], return_index=True)
    coordinates = np.stack(np.unravel_index(places[order], instances.shape))
    low = np.minimum.reduceat(coordinates, starts, axis=1).T.tolist()
    high = np.maximum.reduceat(coordinates, starts, axis=1).T.tolist()
    return {
        number: tuple(slice(a, b + 1) for a, b in zip(first, last, strict=True))
        for number, first, last in zip(numbers.tolist(), low, high, strict=True)
    }


def _at(array: Array, places: npt.NDArray[np.intp]) -> Array:
    """Values at flat indices, without a copy of an array in another order."""
    return np.asarray(array[np.unravel_index(places, array.shape)])


def _labelled(
    mask: Array, places: npt.NDArray[np.intp], connectivity: int
) -> npt.NDArray[np.int32]:
    if connectivity not in _RANK:
        raise ConfigError(f"connectivity {connectivity}", remedy="Use 6, 18 or 26")
    structure = ndimage.generate_binary_structure(3, _RANK[connectivity])
    instances = np.zeros(mask.shape, np.int32)
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
    places = foreground(instances)
    ids = _at(instances, places)
    _require_ids(ids, "map")
    components = _labelled(instances, places, connectivity)
    matching = _matching(ids, _at(components, places))
    n = len(matching.overlaps)
    if n == len(matching.reference) == len(matching.prediction) and ids.max(initial=0) <= _INT32:
        components.flat[places] = ids
    return components


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
    places = np.union1d(foreground(reference), foreground(prediction))
    first, second = _at(reference, places), _at(prediction, places)
    _require_ids(first, "reference")
    _require_ids(second, "prediction")
    return _matching(first, second)


def _require_ids(ids: Array, what: str) -> None:
    if not np.issubdtype(ids.dtype, np.integer) or (ids.size and ids.min() < 0):
        raise VolumeError(
            f"the {what} is no instance map ({ids.dtype})",
            remedy="Pass integers, 0 for none and a positive id for each lesion",
        )


def _matching(first: Array, second: Array) -> Matching:
    """From the ids of both sides at the same voxels."""
    names, compact = np.unique(second, return_inverse=True)
    firsts, rows = np.unique(first, return_inverse=True)
    codes, counts = np.unique(rows * names.size + compact, return_counts=True)
    references: dict[int, int] = {}
    predictions: dict[int, int] = {}
    overlaps: dict[tuple[int, int], int] = {}
    for code, count in zip(codes.tolist(), counts.tolist(), strict=True):
        r, p = int(firsts[code // names.size]), int(names[code % names.size])
        if r:
            references[r] = references.get(r, 0) + count
        if p:
            predictions[p] = predictions.get(p, 0) + count
        if r and p:
            overlaps[r, p] = count
    return Matching(references, dict(sorted(predictions.items())), overlaps)
