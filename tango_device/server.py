"""The console script `NfPhasing`: run the Tango server."""

import sys
from collections.abc import Sequence

from nfphasing_bluesky.streaming.logs import write_text_lines
from tango_device.device import NfPhasing


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the server: `NfPhasing INSTANCE [-v4]`, registered in the database of TANGO_HOST."""
    write_text_lines()
    given = sys.argv[1:] if arguments is None else list(arguments)
    NfPhasing.run_server(given)


if __name__ == "__main__":
    main()
