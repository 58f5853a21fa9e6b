"""How much this process may compute at once."""

import os


def available_processors() -> int:
    """Return how many processors this process may use; a container is often given fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
