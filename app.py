"""The app as a Hugging Face Space runs it; GROUNDED_CONFIG names another configuration than tiny."""

import os

from grounded.ui import serving  # first, since ZeroGPU wants to be imported before anything that may start CUDA

serving.prepare()

from grounded.ui.demo import build_demo  # noqa: E402 (Gradio notes its folder when it is imported)
from grounded.ui.theme import look  # noqa: E402

studio = serving.load(os.environ.get("GROUNDED_CONFIG", "tiny"))
demo = build_demo(studio)

if __name__ == "__main__":
    serving.serve(demo, studio.limits, **look())
