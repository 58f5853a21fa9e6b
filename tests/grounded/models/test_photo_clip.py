"""The bundled CLIP for photographs: sentence embeddings that mean something, and images in the same space."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from grounded.models.clip import ClipEncoder
from tests.hub import use_hub


@pytest.fixture
def encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ClipEncoder:
    use_hub(monkeypatch, tmp_path / "empty")  # nothing is downloaded, and nothing cached is needed
    return ClipEncoder.from_pretrained("bundled:photo-clip", ("{}", "a {}", "a photo of a {}."))


def test_bundled_clip_for_photographs(encoder: ClipEncoder):
    cat, kitten, bus = words = encoder.encode(["cat", "kitten", "bus"])
    torch.testing.assert_close(words.norm(dim=1), torch.ones(3))
    assert encoder.dim == 384 and cat @ kitten > cat @ bus + 0.2
    images = encoder.encode_images([Image.new("RGB", (80, 80), "green"), Image.new("RGB", (40, 60))])
    torch.testing.assert_close(images.norm(dim=1), torch.ones(2))
    assert 0.01 < encoder.temperature < 0.1
