"""Free-form text in, labelled instance masks out.

pipeline = grounded.Pipeline.from_config()
instances = pipeline.segment("image.png", "a dog. pizza")
grounded.draw("image.png", instances).save("overlay.png")
"""

from segany.utils.lazy import attach_stub

__version__ = "0.1.0"

# `__init__.pyi` lists the public names. They are imported on first use, because PyTorch takes seconds to import.
__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
