"""The public names of segany; `__init__.py` imports each of them when it is first used."""

from segany.automatic_mask_generator import AutomaticMaskGenerator as AutomaticMaskGenerator
from segany.automatic_mask_generator import AutomaticMasks as AutomaticMasks
from segany.checkpoint import load as load
from segany.checkpoint import save as save
from segany.config import PRESETS as PRESETS
from segany.config import SegAnyConfig as SegAnyConfig
from segany.errors import CheckpointError as CheckpointError
from segany.errors import DeviceError as DeviceError
from segany.errors import EmbeddingFileError as EmbeddingFileError
from segany.errors import ForeignEmbeddingError as ForeignEmbeddingError
from segany.errors import ImageError as ImageError
from segany.errors import PromptError as PromptError
from segany.errors import SegAnyError as SegAnyError
from segany.model import SegAny as SegAny
from segany.predictor import ImageEmbedding as ImageEmbedding
from segany.predictor import MaskPrediction as MaskPrediction
from segany.predictor import Predictor as Predictor
from segany.prompts import Prompts as Prompts
