"""Splitting a long list of phrases into several prompts, never inside a phrase."""

from collections.abc import Sequence


def split_phrases(lengths: Sequence[int], max_tokens: int) -> list[range]:
    """Cut a list of phrases into runs whose prompts fit into the text length of a detector.

    A prompt takes the tokens of its phrases, one delimiter after each of them, and two more at its ends.
    Runs are filled in order, so that phrases asked together are looked for together as far as that is possible.

    Args:
        lengths: number of tokens of each phrase, each of which must fit into a prompt by itself.
        max_tokens: tokens of the longest prompt.

    Returns:
        consecutive ranges of indices into `lengths` which cover all of them; none for no phrases.

    Raises:
        ValueError: a phrase is longer than `max_tokens` allows.
    """
    runs: list[range] = []
    start, used = 0, 2
    for i, length in enumerate(lengths):
        if length + 3 > max_tokens:
            raise ValueError(f"phrase {i} has {length} tokens, at most {max_tokens - 3} fit into a prompt")
        if used + length + 1 > max_tokens:
            runs.append(range(start, i))
            start, used = i, 2
        used += length + 1
    if lengths:
        runs.append(range(start, len(lengths)))
    return runs
