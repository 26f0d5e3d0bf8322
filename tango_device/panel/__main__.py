"""`nfphasing-panel DEVICE`: the panel of one NfPhasing device."""

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Open the panel, or save a picture of it."""
    parser = argparse.ArgumentParser(prog="nfphasing-panel", description="The panel of one NfPhasing device.")
    parser.add_argument("device", help="Tango name, as lab/nfphasing/1; the database is that of TANGO_HOST")
    parser.add_argument("--screenshot", type=Path, help="save a picture once a frame is drawn, and end")
    given = parser.parse_args(arguments)
    warnings.filterwarnings(
        "ignore", "libpyside", RuntimeWarning
    )  # Taurus declares Qt signals in PyQt's words
    try:
        from taurus.qt.qtgui.application import TaurusApplication

        from tango_device.panel.plots import dark_on_white
        from tango_device.panel.window import Panel
    except ImportError as error:
        parser.exit(1, f"nfphasing-panel: {error}; install the extra: pip install 'nfphasing-bluesky[gui]'\n")
    application = TaurusApplication([sys.argv[0]], cmd_line_parser=None)
    dark_on_white()
    panel = Panel(given.device)
    panel.show()
    if given.screenshot is not None:
        _shoot(panel, given.screenshot, application)
    return int(application.exec_())


def _shoot(panel: "Panel", path: Path, application: "TaurusApplication") -> None:  # type: ignore[name-defined]  # noqa: F821
    from taurus.external.qt import Qt

    timer = Qt.QTimer(panel)

    def look() -> None:
        if panel.frames_drawn:
            timer.stop()
            # a moment for what was drawn to reach the widgets
            Qt.QTimer.singleShot(
                300, lambda: (panel.grab().save(str(path)), panel.close(), application.quit())
            )

    timer.timeout.connect(look)
    timer.start(100)


if __name__ == "__main__":
    sys.exit(main())
