"""The bundled video pipeline, loaded once for all tests that follow objects."""

from functools import cache

from grounded.video.pipeline import VideoPipeline


@cache
def bundled_video() -> VideoPipeline:
    return VideoPipeline.from_config("tiny", device="cpu")
