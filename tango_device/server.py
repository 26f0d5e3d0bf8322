"""The console script `NfPhasing`: run the Tango server."""

import logging
import sys
from collections.abc import Sequence

import tango

from nfphasing_bluesky.clients.registration import reason
from nfphasing_bluesky.streaming.logs import write_text_lines
from tango_device.device import NfPhasing

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the server: `NfPhasing INSTANCE [-v4]`, registered in the database of TANGO_HOST.

    It ends with status 1 when it cannot start; Tango itself ends it when the instance is unknown or runs.
    """
    write_text_lines()
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        NfPhasing.run_server(given, raises=True)
    except Exception as error:  # Tango's own, and RuntimeError for what omniORB says on stderr
        why = reason(error) if isinstance(error, tango.DevFailed) else str(error)
        logger.error(
            "the server NfPhasing %s could not start: %s; where omniORB says above that an address is in "
            "use, end what has it, or choose another (-ORBendPoint giop:tcp:HOST:PORT)",
            " ".join(given[:1]),
            why,
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
