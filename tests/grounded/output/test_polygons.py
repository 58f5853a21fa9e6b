import numpy as np
import pytest
from scipy import ndimage

from grounded.output.polygons import TOLERANCE, Polygon, join_holes, mask_to_polygons, polygons_to_mask
from segany.utils.rle import encode_rle
from tests.data import build_unchecked, disk


def drawn(*rows: str) -> np.ndarray:
    return np.array([[letter == "#" for letter in row] for row in rows])


def blob(seed: int, side: int = 64) -> np.ndarray:
    """Smooth random regions, some with holes, some cut by the border."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((side, side)), side / 10)
    return noise > 0.2 * noise.std()


def noise(density: float, height: int = 30, width: int = 40) -> np.ndarray:
    return np.random.default_rng(0).random((height, width)) < density


NESTED = drawn("#######", "#.....#", "#.###.#", "#.#.#.#", "#.###.#", "#.....#", "#######")
MASKS = {
    "empty": np.zeros((4, 5), bool),
    "no pixels": np.zeros((0, 5), bool),
    "one pixel": drawn("....", "..#.", "...."),
    "one pixel in all": drawn("#"),
    "a corner": drawn("...", "..#"),
    "all pixels": np.ones((4, 5), bool),
    "one row": np.ones((1, 6), bool),
    "one column": np.ones((6, 1), bool),
    "rectangle": drawn(".....", ".###.", ".###.", "....."),
    "hole": drawn("###", "#.#", "###"),
    "two holes": drawn("#####", "#.#.#", "#####"),
    "holes one above the other": drawn("###", "#.#", "###", "#.#", "###"),
    "holes that touch at a corner": drawn("####", "#.##", "##.#", "####"),
    "nested": NESTED,
    "several parts": drawn("#..#", "#..#", "....", "##.#"),
    "diagonal touch": drawn("#..", ".#.", "#.#"),
    "chessboard": np.indices((5, 6)).sum(axis=0) % 2 == 0,
    "touches all borders": drawn("..#..", "#####", "..#.."),
    "disk": disk(30, 40, 18, 15, 11),
    **{f"noise {density}": noise(density) for density in (0.1, 0.5, 0.9)},
    **{f"blob {seed}": blob(seed) for seed in range(3)},
}
masks = pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
tolerances = pytest.mark.parametrize("tolerance", [0.0, TOLERANCE], ids=["exact", "default"])


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return (a & b).sum() / (a | b).sum()


def corners(polygons: list[Polygon]) -> int:
    return sum(len(ring) for polygon in polygons for ring in polygon.rings)


def signed_area(ring: np.ndarray) -> float:
    x, y = ring.T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


@masks
@tolerances
def test_there_and_back(mask: np.ndarray, tolerance: float):
    polygons = mask_to_polygons(mask, tolerance)
    np.testing.assert_array_equal(polygons_to_mask(polygons, mask.shape), mask)


@masks
def test_run_lengths_are_the_same(mask: np.ndarray):
    if mask.size == 0:
        pytest.skip("has no run-length encoding")
    (rle,) = encode_rle(mask[None])
    ours, theirs = mask_to_polygons(rle), mask_to_polygons(mask)
    for a, b in zip(ours, theirs, strict=True):
        for one, other in zip(a.rings, b.rings, strict=True):
            np.testing.assert_array_equal(one, other)


@masks
def test_parts_and_holes(mask: np.ndarray):
    """Parts are connected by edges, holes by edges and corners."""
    polygons = mask_to_polygons(mask)
    assert len(polygons) == ndimage.label(mask)[1]
    background = np.pad(~mask, 1, constant_values=True)
    assert sum(len(polygon.holes) for polygon in polygons) == ndimage.label(background, np.ones((3, 3)))[1] - 1
    for polygon in polygons:
        assert signed_area(polygon.outer) > 0
        assert all(signed_area(hole) < 0 for hole in polygon.holes)


@masks
def test_rings_reach_the_edges_of_their_pixels(mask: np.ndarray):
    parts = ndimage.find_objects(ndimage.label(mask)[0]) if mask.any() else []
    boxes = [[x.start, y.start, x.stop, y.stop] for y, x in parts]
    rings = [polygon.outer for polygon in mask_to_polygons(mask, 0.0)]
    assert sorted([*ring.min(axis=0).tolist(), *ring.max(axis=0).tolist()] for ring in rings) == sorted(boxes)


def test_coordinates_are_those_of_pixel_edges():
    (polygon,) = mask_to_polygons(drawn("....", ".##.", "...."), tolerance=0.0)
    assert polygon.holes == ()
    ring = polygon.outer.tolist()
    assert sorted(ring) == [[1, 1.5], [1.5, 1], [1.5, 2], [2.5, 1], [2.5, 2], [3, 1.5]]


def test_a_part_inside_a_hole_is_a_part():
    outer, inner = sorted(mask_to_polygons(NESTED, 0.0), key=lambda polygon: -signed_area(polygon.outer))
    assert [len(outer.holes), len(inner.holes)] == [1, 1]
    assert signed_area(outer.outer) > -signed_area(outer.holes[0]) > signed_area(inner.outer)


def crossings(rings: list[np.ndarray]) -> int:
    """How many pairs of edges meet that are not neighbours in a ring."""
    a, b = np.concatenate(rings), np.concatenate([np.roll(ring, -1, axis=0) for ring in rings])
    starts = np.cumsum([0, *map(len, rings)])
    following = np.concatenate(
        [np.roll(np.arange(len(ring)), -1) + start for ring, start in zip(rings, starts, strict=False)]
    )
    (p, q), (r, s) = (a[:, None], b[:, None]), (a[None], b[None])

    def side(one: np.ndarray, other: np.ndarray, point: np.ndarray) -> np.ndarray:
        x, y = np.moveaxis(other - one, -1, 0)
        u, v = np.moveaxis(point - one, -1, 0)
        return x * v - y * u

    meet = (side(p, q, r) * side(p, q, s) <= 0) & (side(r, s, p) * side(r, s, q) <= 0)
    boxes_meet = (np.minimum(p, q) <= np.maximum(r, s)) & (np.minimum(r, s) <= np.maximum(p, q))
    meet &= boxes_meet.all(axis=-1)
    index = np.arange(len(a))
    meet[index, index] = meet[index, following] = meet[following, index] = False
    return int(meet.sum())


def test_crossings_are_counted():
    bow = np.array([[0, 0], [2, 2], [2, 0], [0, 2.0]])
    square = np.array([[0, 0], [2, 0], [2, 2], [0, 2.0]])
    assert crossings([bow]) > 0
    assert crossings([square]) == 0
    assert crossings([square, square + 1]) > 0
    assert crossings([square, square + 3]) == 0


@pytest.mark.parametrize("density", [0.3, 0.5, 0.7, 0.9])
@tolerances
def test_no_ring_crosses_itself_or_another(density: float, tolerance: float):
    polygons = mask_to_polygons(noise(density, 24, 24), tolerance)
    assert crossings([ring for polygon in polygons for ring in polygon.rings]) == 0


def test_corners_lie_on_no_straight_line():
    for ring in (polygon.outer for polygon in mask_to_polygons(noise(0.6), 0.0)):
        before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
        assert (before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0] != 0).all()
    assert corners(mask_to_polygons(np.ones((20, 30), bool), 0.0)) == 8


def test_a_coarser_tolerance_has_fewer_corners_within_its_distance():
    mask = disk(100, 100, 50, 50, 40)
    counts = []
    for tolerance in (0.0, 0.35, 0.5, 1.0):
        polygons = mask_to_polygons(mask, tolerance)
        counts.append(corners(polygons))
        radii = np.linalg.norm(polygons[0].outer + np.roll(polygons[0].outer, -1, axis=0) - 101, axis=1) / 2
        assert np.abs(radii - 40).max() < tolerance + 1
    assert counts == sorted(set(counts), reverse=True)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("tolerance", "least"), [(0.5, 0.98), (1.0, 0.95)])
def test_a_little_simplified_is_nearly_the_same(seed: int, tolerance: float, least: float):
    mask = blob(seed)
    assert iou(polygons_to_mask(mask_to_polygons(mask, tolerance), mask.shape), mask) >= least


@masks
@pytest.mark.parametrize("tolerance", [1.0, 100.0, float("inf")])
def test_no_ring_vanishes(mask: np.ndarray, tolerance: float):
    exact, coarse = mask_to_polygons(mask, 0.0), mask_to_polygons(mask, tolerance)
    for a, b in zip(exact, coarse, strict=True):
        for one, other in zip(a.rings, b.rings, strict=True):
            assert len(other) >= 3
            assert signed_area(other) * signed_area(one) > 0


@pytest.mark.slow
@masks
@pytest.mark.parametrize("tolerance", [0.0, TOLERANCE, 3.0])
@pytest.mark.parametrize("turn", [1, -1], ids=["as it is", "holes turned round"])
def test_joined_is_the_same_mask(mask: np.ndarray, tolerance: float, turn: int):
    polygons = [
        Polygon(polygon.outer, tuple(hole[::turn] for hole in polygon.holes))
        for polygon in mask_to_polygons(mask, tolerance)
    ]
    rings = [join_holes(polygon) for polygon in polygons]
    expected = polygons_to_mask(polygons, mask.shape)
    np.testing.assert_array_equal(polygons_to_mask([Polygon(ring) for ring in rings], mask.shape), expected)
    for polygon, ring in zip(polygons, rings, strict=True):
        # Holes count against the ring, so that programs with the nonzero rule leave them out too.
        area = abs(signed_area(polygon.outer)) - sum(abs(signed_area(hole)) for hole in polygon.holes)
        assert abs(signed_area(ring)) == pytest.approx(area)


def test_bridges_pass_through_the_mask():
    (polygon,) = mask_to_polygons(drawn("#######", "#.##.##", "#######"), 0.0)
    ring = join_holes(polygon)
    assert len(ring) == corners([polygon]) + 3 * len(polygon.holes)
    ends = np.roll(ring, -1, axis=0)
    horizontal = {(x0, x1, y) for (x0, y), (x1, y1) in zip(ring.tolist(), ends.tolist(), strict=True) if y == y1}
    assert {(0, 1, 1.5), (1, 0, 1.5), (2, 4, 1.5), (4, 2, 1.5)} <= horizontal


@pytest.mark.parametrize(
    ("ring", "expected"),
    [
        pytest.param([[1, 1], [3, 1], [3, 3], [1, 3]], drawn("....", ".##.", ".##.", "...."), id="square"),
        pytest.param([[-9, -9], [9, -9], [9, 9], [-9, 9]], np.ones((4, 4), bool), id="beyond the image"),
        pytest.param([[5, 1], [9, 1], [9, 3]], np.zeros((4, 4), bool), id="right of the image"),
        pytest.param([[-5, 1], [-9, 1], [-9, 3]], np.zeros((4, 4), bool), id="left of the image"),
        pytest.param([[1, -5], [1, -9], [3, -9]], np.zeros((4, 4), bool), id="above the image"),
        pytest.param([[1, 5], [1, 9], [3, 9]], np.zeros((4, 4), bool), id="below the image"),
        pytest.param([[0.6, 0.6], [1.4, 0.6], [1.4, 1.4]], np.zeros((4, 4), bool), id="between centres"),
        pytest.param([[0.5, 0.5], [2.5, 0.5], [2.5, 2.5], [0.5, 2.5]], drawn("##..", "##..", "....", "...."), id="on"),
        pytest.param([[0, 0], [4.2, 4], [4.2, 0], [0, 4]], drawn("#...", "##.#", "##.#", "#..."), id="crosses itself"),
        pytest.param([[0, 0], [3.9, 0], [0, 3.9]], drawn("###.", "##..", "#...", "...."), id="triangle"),
        pytest.param([[1, 1], [3, 1], [2, 1]], np.zeros((4, 4), bool), id="flat"),
    ],
)
def test_pixels_by_their_centres(ring: list[list[float]], expected: np.ndarray):
    for corners in (ring, ring[::-1]):
        polygon = Polygon(np.array(corners, dtype=float))
        np.testing.assert_array_equal(polygons_to_mask([polygon], (4, 4)), expected)


def test_polygons_that_overlap_are_united():
    square = Polygon(np.array([[0, 0], [3, 0], [3, 3], [0, 3.0]]))
    other = Polygon(np.array([[1, 1], [4, 1], [4, 4], [1, 4.0]]))
    assert polygons_to_mask([square, other], (4, 4)).sum() == 9 + 9 - 4
    np.testing.assert_array_equal(
        polygons_to_mask([square, other], (4, 4)),
        polygons_to_mask([square], (4, 4)) | polygons_to_mask([other], (4, 4)),
    )


@pytest.mark.parametrize("tolerance", [-0.1, float("nan")])
def test_wrong_tolerance(tolerance: float):
    with pytest.raises(ValueError, match="tolerance must be 0 pixels or more, got"):
        mask_to_polygons(MASKS["disk"], tolerance)


@pytest.mark.parametrize(
    ("ring", "message"),
    [
        (np.zeros((2, 2)), r"a ring must be \(k, 2\) with at least three corners, got \(2, 2\)"),
        (np.zeros((4, 3)), r"a ring must be \(k, 2\) with at least three corners, got \(4, 3\)"),
        (np.array([[0, 0], [1, 0], [1, np.nan]]), "a ring must be finite"),
    ],
    ids=["two corners", "three coordinates", "nan"],
)
def test_wrong_rings(ring: np.ndarray, message: str):
    square = np.array([[0, 0], [3, 0], [3, 3], [0, 3.0]])
    for rings in ((ring, ()), (square, (ring,))):
        with pytest.raises(ValueError, match=message):
            build_unchecked(Polygon, *rings)
