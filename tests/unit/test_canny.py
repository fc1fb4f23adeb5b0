from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from backdrop_server.stages.canny import edge_map


def scene() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    image = np.full((96, 128, 3), 230, np.uint8)
    image[30:70, 40:90] = (200, 20, 20)
    image[45:55, 55:75] = (20, 20, 200)
    image[5:15, 5:20] = 0  # behind the product
    mask = np.full((96, 128), 255, np.uint8)
    mask[30:70, 40:90] = 0
    return image, mask


def test_edges_are_opencv_canny_near_the_matte_and_nothing_elsewhere() -> None:
    image, mask = scene()
    edges = edge_map(image, mask)
    assert edges.shape == mask.shape
    assert edges.dtype == np.uint8
    assert set(np.unique(edges)) == {0, 255}
    near = np.zeros_like(mask, bool)
    near[28:72, 38:92] = True
    np.testing.assert_array_equal(edges, np.where(near, cv2.Canny(image, 100, 200), 0))


def test_outline_and_inner_texture_are_found_and_the_background_is_not() -> None:
    image, mask = scene()
    edges = edge_map(image, mask)
    assert cv2.Canny(image, 100, 200)[:20, :25].any()
    assert not edges[:20, :25].any()
    assert edges[28:32, 45:85].any(axis=0).all()
    assert edges[43:57, 53:77].any()


def test_an_outline_just_outside_the_matte_is_kept() -> None:
    image, mask = scene()
    mask[30:70, 40:41] = 255
    assert edge_map(image, mask)[35:65, 38:42].any(axis=1).all()


def test_nothing_to_keep_gives_no_edges() -> None:
    image, mask = scene()
    assert not edge_map(image, np.full_like(mask, 255)).any()
    np.testing.assert_array_equal(edge_map(image, np.zeros_like(mask)), cv2.Canny(image, 100, 200))
