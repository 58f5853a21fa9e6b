"""What bundled weights are asked to reach, and how tables of figures show it."""

Bar = tuple[float, float]  # least and most; a most of 1 and a least of 0 ask for nothing


def bar_cells(value: float, bar: Bar | None) -> tuple[str, str]:
    """The bar as a table shows it, and whether a figure reaches it; both empty where there is none."""
    if bar is None:
        return "", ""
    shown = f"≥ {bar[0]:g}" if bar[1] == 1 else f"≤ {bar[1]:g}"
    return shown, "yes" if bar[0] <= value <= bar[1] else "no"
