"""One process, or several that train together: which one this is, on which device, and the mean of their gradients.

Several are started by `accelerate launch` or `torchrun`, and joined by the package accelerate. Gradients are averaged
in one message after the backward pass, so a model needs no wrapper, and parameters that a step did not use do no harm.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from grounded.errors import ConfigError
from grounded.models.build import pick_device


@dataclass(frozen=True)
class Processes:
    """The processes of a training, seen from one of them."""

    device: torch.device
    rank: int = 0
    size: int = 1
    _accelerator: Any = None

    @classmethod
    def open(cls, device: str = "auto") -> "Processes":
        """Join the processes that a launcher has started, or be the only one.

        Raises:
            ConfigError: there is no such device, or several processes without the package accelerate.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls(pick_device(device))
        try:
            from accelerate import Accelerator
        except ImportError as error:
            raise ConfigError("several processes need the package accelerate: the extra train has it") from error
        accelerator = Accelerator(cpu=pick_device(device).type == "cpu")
        return cls(accelerator.device, accelerator.process_index, accelerator.num_processes, accelerator)

    @property
    def is_first(self) -> bool:
        """Whether this process logs, validates and writes."""
        return self.rank == 0

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace the gradients by their mean over all processes; a missing one counts as zero."""
        if self.size == 1:
            return
        parameters = list(parameters)
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
        mean = self._accelerator.reduce(flat, reduction="mean")
        for parameter, part in zip(parameters, mean.split([p.numel() for p in parameters]), strict=True):
            parameter.grad = part.view_as(parameter).clone()

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any of the processes."""
        if self.size == 1:
            return flag
        return bool(self._accelerator.reduce(torch.tensor(float(flag), device=self.device), reduction="sum") > 0)

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            self._accelerator.wait_for_everyone()
