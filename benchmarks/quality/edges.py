"""How much of the product's own edges a raw picture shows inside the product's outline."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching
from scipy.spatial import cKDTree

from backdrop_server.stages.canny import edge_map

TOLERANCE = 2.0
"""Pixels by which an edge may be off."""
Pixels = npt.NDArray[np.uint8]
Edges = npt.NDArray[np.bool_]


def edge_agreement(picture: Pixels, photo: Pixels, mask: Pixels) -> float:
    """F1 of the edges of ``picture`` against those of ``photo``, at and inside the matte, 0 to 1.

    Pictures are uint8 [H, W, 3] of one size; ``mask`` is uint8 [H, W], 255 = repaint. Both have the
    edges that the server's Canny finds. An edge pixel is met by one other at most, or a scene full
    of edges would agree with anything (Martin, Fowlkes and Malik 2004, section 3).
    """
    found, wanted = (edge_map(rgb, mask) > 0 for rgb in (picture, photo))
    both = int(found.sum() + wanted.sum())
    return 2 * _pairs(found, wanted) / both if both else 1.0


def _pairs(found: Edges, wanted: Edges) -> int:
    """The most pairs of one pixel of each that are at most TOLERANCE apart."""
    trees = [cKDTree(np.argwhere(edges)) for edges in (found, wanted)]
    if not all(tree.n for tree in trees):
        return 0
    near = trees[0].sparse_distance_matrix(trees[1], TOLERANCE + 1e-6, output_type="coo_matrix")
    allowed = csr_matrix((np.ones(near.nnz), (near.row, near.col)), shape=near.shape)
    return int((maximum_bipartite_matching(allowed) >= 0).sum())
