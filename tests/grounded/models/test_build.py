import pytest
import torch

from grounded.errors import ConfigError
from grounded.models.build import pick_device


def test_auto():
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_named():
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("gpu", id="not a device"),
        pytest.param("", id="empty"),
        pytest.param("cuda:99", id="not here"),
    ],
)
def test_not_available(name: str):
    with pytest.raises(ConfigError, match=f"device '{name}' is not available here") as caught:
        pick_device(name)
    assert "\n" not in str(caught.value)
