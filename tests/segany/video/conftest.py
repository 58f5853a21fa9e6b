import pytest
import torch

from segany import SegAny, SegAnyConfig
from segany.video.config import MemoryConfig
from segany.video.memory import VideoMemory

IMAGE = SegAnyConfig(
    image_size=64,
    patch_size=8,
    encoder_dim=32,
    encoder_depth=2,
    encoder_heads=2,
    global_blocks=(1,),
    window_size=4,
    prompt_dim=128,
    decoder_heads=2,
    decoder_mlp_dim=32,
    iou_hidden_dim=16,
)
MEMORY = MemoryConfig(attention_depth=2, fuser_depth=1, recent_frames=3, prompted_frames=2, pointers=4)


@pytest.fixture(scope="session")
def image_model() -> SegAny:
    torch.manual_seed(0)
    return SegAny(IMAGE).eval()


@pytest.fixture(scope="session")
def memory() -> VideoMemory:
    torch.manual_seed(1)
    return VideoMemory(IMAGE, MEMORY).eval()
