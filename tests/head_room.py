"""Whether what stands above the panels of a figure is clear of them."""

from matplotlib.figure import Figure


def head_room(figure: Figure) -> float:
    """Pixels between the lowest line above the panels and the highest part of any of them."""
    figure.draw_without_rendering()
    height = figure.get_window_extent().height
    heads = [text for text in figure.texts if text.get_text() and text.get_position()[1] > 0.5]
    assert len(heads) > 1, "a title and a verdict"
    lowest = min(text.get_window_extent().y0 for text in heads)
    highest = max(axes.get_tightbbox().y1 for axes in figure.axes)
    assert highest < height
    return float(lowest - highest)
