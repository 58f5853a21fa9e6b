import numpy as np
from PIL import Image

from grounded.evaluation.report.text_figure import TextExample, draw_text_figure
from tests.grounded.evaluation.made import block, rle


def test_a_row_for_each_example_and_a_column_for_each_kind():
    mask, size = block(10, 10, 20, 20, (40, 60)), (60, 40)
    masks, ious = {"text": rle(mask), "text + point": rle(mask)}, {"text": 0.2, "text + point": 0.9}
    example = TextExample(Image.new("RGB", size, "white"), "dog", rle(mask), masks, ious, (20.0, 20.0))
    one = draw_text_figure([example], ("text", "text + point"))
    two = draw_text_figure([example] * 2, ("text", "text + point"))
    assert one.width == two.width == 12 + 3 * 312 and two.height - one.height == 200 + 42
    centre = np.asarray(one)[42 + 100 - 20, 12 + 140 :: 312][:3].astype(int)  # in the mask, of each column
    assert centre[1, 0] > centre[1, 1] and centre[2, 1] > centre[2, 0]  # red where the mask is wrong, green where right
