"""What the main tab of the app holds for one user: the work on a picture, and how it is looked at."""

from dataclasses import dataclass, field

from grounded.ui.options import Options
from grounded.ui.session import Session


@dataclass(frozen=True)
class Page:
    """A value like `Session`: events replace it, and nothing in it is shared between users."""

    session: Session = field(default_factory=Session)
    hidden: frozenset[str] = frozenset()  # phrases whose instances are not shown
    asked: tuple[str, Options] | None = None  # the last question, which need not be asked again
    painting: bool = False  # whether the brush is open, which is slow to fill


def hidden_by(choice: list[str], page: Page) -> frozenset[str]:
    """The phrases that a choice of phrases to show leaves out."""
    return frozenset(page.session.instances.phrases) - frozenset(choice)
