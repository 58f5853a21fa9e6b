"""Memory does not grow with the number of calls."""

import gc
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from grounded.pipeline import Pipeline

CALLS, WARM_UP, MAX_GROWTH = 1000, 200, 64  # the last in megabytes
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]


def resident_megabytes() -> float:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def test_calls_of_changing_sizes(random_pipelines: dict[str, Pipeline]):
    pipeline, rng = random_pipelines["box+text"], np.random.default_rng(0)
    sizes = []
    for call in range(CALLS):
        height, width = rng.integers(40, 400, 2)
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
        pipeline.segment(image, [f"a thing {call}", f"another {rng.integers(1000)}"])
        if call in (WARM_UP, CALLS - 1):
            sizes.append(resident_megabytes())
    before, after = sizes
    assert after - before < MAX_GROWTH, f"{CALLS - WARM_UP} calls added {after - before:.0f} MB"
