"""The public names of grounded; `__init__.py` imports each of them when it is first used."""

from grounded.config import PipelineConfig as PipelineConfig
from grounded.data.detections import Detections as Detections
from grounded.data.instances import Instances as Instances
from grounded.data.phrases import parse as parse
from grounded.errors import BusyError as BusyError
from grounded.errors import CheckpointError as CheckpointError
from grounded.errors import ConfigError as ConfigError
from grounded.errors import GroundedError as GroundedError
from grounded.errors import ImageError as ImageError
from grounded.errors import OutputError as OutputError
from grounded.errors import PromptError as PromptError
from grounded.errors import ResultError as ResultError
from grounded.errors import VideoError as VideoError
from grounded.output.cutouts import cutouts as cutouts
from grounded.output.draw import draw as draw
from grounded.pipeline import Pipeline as Pipeline
from grounded.stages.cache import StageCache as StageCache
from grounded.utils.timing import Stopwatch as Stopwatch
from grounded.video.frames import open_clip as open_clip
from grounded.video.pipeline import VideoPipeline as VideoPipeline
from grounded.video.prompts import ObjectPrompt as ObjectPrompt
from grounded.video.tracks import TrackedFrame as TrackedFrame

__version__: str
