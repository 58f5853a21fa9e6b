"""Promptable segmentation: Segment Anything in PyTorch, with points, boxes, masks and text as prompts.

predictor = segany.Predictor(segany.load("photo"))
embedding = predictor.encode("image.png")
prediction = predictor.predict(embedding, segany.Prompts(boxes=[[10, 20, 110, 90]]))
prediction.best().masks  # (n, 1, height, width) bool
"""

from segany.utils.lazy import attach_stub

# `__init__.pyi` lists the public names. They are imported on first use, because PyTorch takes seconds to import.
__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
