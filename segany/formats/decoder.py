"""Put a mask decoder that was trained by itself on top of a base model."""

from pathlib import Path

from torch import Tensor

from segany.errors import CheckpointError
from segany.formats.files import INDEX_FILES, WHOLE_FILES, read_content, read_shards
from segany.formats.training import ENCODERS, find_weights, tensors_in
from segany.formats.whole_model import to_meta_names
from segany.state_dict import decoder_sizes

_DECODER = "mask_decoder."
_FIRST = "iou_token.weight"  # the tensor by which a decoder without prefix is known


def with_decoder(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Exchange the mask decoder of a state dict with Meta's names for the one in a file or folder.

    A prompt encoder that was saved with the decoder is taken too, unless the file holds a whole model.

    Raises:
        CheckpointError: the file cannot be read, or holds no mask decoder.
    """
    taken = to_meta_names(_read_decoder(path))
    try:
        decoder_sizes(taken)
    except KeyError as error:
        raise CheckpointError(f"{path}: holds no whole mask decoder: it has no tensor {error}") from error
    return {key: value for key, value in state.items() if not key.startswith(_DECODER)} | taken


def _read_decoder(path: Path) -> dict[str, Tensor]:
    file = path
    if path.is_dir():
        file = next(
            (path / name for name in (*WHOLE_FILES, *INDEX_FILES) if (path / name).is_file()), path / WHOLE_FILES[0]
        )
    content = read_shards(file) if file.name in INDEX_FILES else read_content(file)[0]
    found = next((weights for weights in find_weights(content) if "mask_decoder" in weights.parts), None)
    if found is not None:
        whole = any(encoder in found.parts for encoder in ENCODERS)
        return {key: value for key, value in found.state.items() if key.startswith(_DECODER) or not whole}
    for place, name, _ in tensors_in(content):
        if name.endswith(_FIRST):
            prefix = name.removesuffix(_FIRST)
            beside = {key: value for other, key, value in tensors_in(content) if other == place}
            return {
                _DECODER + key.removeprefix(prefix): value for key, value in beside.items() if key.startswith(prefix)
            }
    return {}
