import numpy as np
import pytest
import torch
from segment_anything.utils import amg

from segany.utils import points


def draw(rows: str) -> torch.Tensor:
    """A mask from lines of '#' and '.'."""
    return torch.tensor([[pixel == "#" for pixel in line] for line in rows.split()])


SQUARE = draw("....... .#####. .#####. .#####. .#####. .#####. .......")
RING = SQUARE & ~draw("....... ....... ....... ...#... ....... ....... .......")
EMPTY = torch.zeros_like(SQUARE)


@pytest.mark.parametrize("side", [1, 2, 5, 32])
def test_point_grid_same_as_segment_anything(side):
    grid = points.build_point_grid(side)
    assert np.array_equal(grid.numpy(), amg.build_point_grid(side).astype(np.float32))


def test_point_grid_needs_a_point():
    with pytest.raises(ValueError, match="points_per_side must be at least 1, got 0"):
        points.build_point_grid(0)


@pytest.mark.parametrize(("layers", "factor"), [(0, 1), (2, 1), (2, 2), (1, 3)])
def test_layer_grids_same_as_segment_anything(layers, factor):
    grids = points.build_layer_point_grids(8, layers, factor)
    expected = amg.build_all_layer_point_grids(8, layers, factor)
    assert [grid.tolist() for grid in grids] == [grid.astype(np.float32).tolist() for grid in expected]


class TestInteriorPoint:
    @pytest.mark.parametrize(
        ("mask", "point"),
        [
            pytest.param(SQUARE, [3, 3], id="middle of a square"),
            pytest.param(draw("##### ##### ##### ##### #####"), [2, 2], id="image border is a boundary"),
            pytest.param(draw("..... ....# ....."), [4, 1], id="single pixel at the border"),
            pytest.param(draw("#.... ..... ..###  ..### ..###"), [3, 3], id="thickest part"),
            pytest.param(draw("##"), [0, 0], id="first of equals"),
            pytest.param(EMPTY, [0, 0], id="empty"),
        ],
    )
    def test_cases(self, mask, point):
        assert points.interior_point(mask).tolist() == point

    def test_lies_inside(self):
        x, y = points.interior_point(RING).int().tolist()
        assert RING[y, x]

    def test_batches(self):
        batch = torch.stack([SQUARE, EMPTY, RING, SQUARE])
        single = torch.stack([points.interior_point(mask) for mask in batch])
        assert torch.equal(points.interior_point(batch), single)
        assert torch.equal(points.interior_point(batch.reshape(2, 2, 7, 7)), single.reshape(2, 2, 2))
        assert points.interior_point(batch[:0]).shape == (0, 2)


LEFT = draw("##..... ##..... ##..... ....... ....... ....... .......")

ERRORS = [
    pytest.param(EMPTY, SQUARE, [3, 3], 1, id="all missed"),
    pytest.param(SQUARE, EMPTY, [3, 3], 0, id="all false"),
    pytest.param(SQUARE, SQUARE, [0, 0], -1, id="no error"),
    pytest.param(EMPTY, EMPTY, [0, 0], -1, id="nothing to find and nothing found"),
    pytest.param(LEFT & ~SQUARE, SQUARE & ~LEFT, [3, 3], 1, id="missed is larger"),
    pytest.param(SQUARE & ~LEFT, LEFT & ~SQUARE, [3, 3], 0, id="false is larger"),
    pytest.param(draw("#.. ..."), draw("..# ..."), [0, 0], 0, id="equal depth: false first"),
]


class TestErrorPoint:
    @pytest.mark.parametrize(("prediction", "truth", "point", "label"), ERRORS)
    def test_cases(self, prediction, truth, point, label):
        found, found_label = points.error_point(prediction, truth)
        assert found.tolist() == point
        assert found_label.item() == label

    def test_depth_decides_not_area(self):
        missed, false = torch.zeros(2, 20, 20, dtype=torch.bool)
        missed[0, :] = missed[:, 0] = True  # 39 pixels, one deep
        false[10:15, 10:15] = True  # 25 pixels, three deep
        point, label = points.error_point(false, missed)
        assert (point.tolist(), label.item()) == ([12, 12], 0)


class TestRandomErrorPoint:
    @pytest.mark.parametrize(("prediction", "truth", "point", "label"), ERRORS)
    def test_only_wrong_pixels_with_their_label(self, prediction, truth, point, label):
        count = 200
        generator = torch.Generator().manual_seed(0)
        found, labels = points.random_error_point(
            prediction.expand(count, -1, -1), truth.expand(count, -1, -1), generator
        )
        if label == -1:
            assert found.tolist() == [[0, 0]] * count
            assert labels.tolist() == [-1] * count
            return
        x, y = found.long().unbind(-1)
        assert (prediction ^ truth)[y, x].all()
        assert torch.equal(labels.bool(), truth[y, x])

    def test_uniform_over_the_error(self):
        prediction, truth = draw("#...# ..... .###."), draw("....# ...## .#..#")
        error = prediction ^ truth
        count = 6000
        generator = torch.Generator().manual_seed(0)
        found, _ = points.random_error_point(prediction.expand(count, -1, -1), truth.expand(count, -1, -1), generator)
        x, y = found.long().unbind(-1)
        sampled = torch.zeros(error.shape).index_put_((y, x), torch.ones(count), accumulate=True) / count
        assert torch.allclose(sampled, error / error.sum(), atol=0.02)


@pytest.mark.parametrize("function", [points.error_point, points.random_error_point], ids=lambda f: f.__name__)
class TestErrorPointBatches:
    def test_mixed_batch(self, function):
        predictions = torch.stack([EMPTY, SQUARE, SQUARE, EMPTY])
        truths = torch.stack([SQUARE, EMPTY, SQUARE, EMPTY])
        _, labels = function(predictions, truths)
        assert labels.tolist() == [1, 0, -1, -1]

    def test_leading_axes(self, function):
        predictions = torch.zeros(2, 3, 5, 6, dtype=torch.bool)
        found, labels = function(predictions, ~predictions)
        assert found.shape == (2, 3, 2)
        assert labels.tolist() == [[1, 1, 1], [1, 1, 1]]
        found, label = function(predictions[0, 0], ~predictions[0, 0])
        assert (found.shape, label.shape) == ((2,), ())

    def test_nothing(self, function):
        found, labels = function(torch.zeros(0, 4, 5, dtype=torch.bool), torch.zeros(0, 4, 5, dtype=torch.bool))
        assert found.shape == (0, 2)
        assert labels.shape == (0,)


class TestRandomPoint:
    def test_inside_and_repeatable(self):
        batch = torch.stack([SQUARE, EMPTY, RING])
        found, labels = points.random_point(batch, torch.Generator().manual_seed(7))
        again, _ = points.random_point(batch, torch.Generator().manual_seed(7))
        assert torch.equal(found, again)
        assert labels.tolist() == [1, -1, 1]
        x, y = found.long().unbind(-1)
        assert batch[torch.arange(3), y, x].tolist() == [True, False, True]
