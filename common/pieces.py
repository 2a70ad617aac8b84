"""The largest connected piece of a mask by way of its slices: a graph of some hundred nodes, no search over voxels."""

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Mask = NDArray[np.bool_]
Bytes = NDArray[np.uint8]
Labels = NDArray[np.uint16]


def largest_component(mask_zyx: Bytes | Mask) -> Bytes:
    """Returns the largest component (in-plane 8-connected, 6-connected along z) as zeros and ones; empty stays empty.

    Slices are labelled by OpenCV and their pieces joined where they overlap the next slice's.
    """
    layers = np.ascontiguousarray(mask_zyx).view(np.uint8)
    pieces, sizes = zip(*(_pieces(layer) for layer in layers), strict=True)
    starts = np.cumsum([0, *map(len, sizes)])  # node of slice z, label k: starts[z] + k
    links = [_overlaps(pieces[z : z + 2], sizes[z : z + 2]) + starts[z : z + 2, None] for z in range(len(layers) - 1)]
    rows, columns = np.concatenate([*links, np.zeros((2, 0), int)], axis=1)
    graph = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(starts[-1], starts[-1]))
    _, groups = connected_components(graph, directed=False)
    kept = groups == np.bincount(groups, weights=np.concatenate(sizes)).argmax()
    return np.stack([_selected(layers[z], pieces[z], kept[starts[z] : starts[z + 1]]) for z in range(len(layers))])


def _pieces(layer: Bytes) -> tuple[Labels, NDArray[np.int_]]:
    """Returns the slice's labelled pieces and the voxels of each label; the background, label 0, counts none."""
    _, tree = cv2.findContours(layer, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if tree is not None and np.count_nonzero(tree[0, :, 3] < 0) == 1:  # one piece: a third of the time
        return layer.astype(np.uint16), np.array([0, cv2.countNonZero(layer)])
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(layer, connectivity=8, ltype=cv2.CV_16U)
    sizes = statistics[:, cv2.CC_STAT_AREA].astype(int)
    sizes[0] = 0
    return labels, sizes


def _overlaps(pieces: tuple[Labels, ...], sizes: tuple[NDArray[np.int_], ...]) -> NDArray[np.int_]:
    """Returns the pairs of labels, shape (2, N), of two neighbouring slices that share a column of voxels."""
    if len(sizes[0]) == len(sizes[1]) == 2:  # the usual case, one piece each, needs no list of voxels
        return np.full((2, int(cv2.countNonZero(cv2.min(*pieces)) > 0)), 1)
    both = np.flatnonzero(cv2.min(*pieces))
    pairs = pieces[0].ravel()[both].astype(int) * len(sizes[1]) + pieces[1].ravel()[both]
    counts = np.bincount(pairs, minlength=len(sizes[0]) * len(sizes[1]))
    return np.array(np.nonzero(counts.reshape(len(sizes[0]), len(sizes[1]))))


def _selected(layer: Bytes, pieces: Labels, kept: Mask) -> Bytes:
    """Returns the slice's kept pieces; the usual slice keeps all or none and needs no look-up."""
    if kept[1:].all():
        return layer
    return np.asarray((kept & (np.arange(len(kept)) > 0))[pieces], np.uint8) if kept[1:].any() else np.zeros_like(layer)
