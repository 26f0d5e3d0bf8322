"""Log lines of processes that run for long: with time and level, or as one JSON object each for programs."""

import json
import logging
from datetime import UTC, datetime

from nfphasing_bluesky.core.about import RAW_UID

LINE = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class JsonLines(logging.Formatter):
    """Formats a record as one JSON object: time, level, logger, message, raw_uid, pid, exception."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "pid": record.process,
        }
        if raw_uid := RAW_UID.get():
            line["raw_uid"] = raw_uid
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def write_json_lines() -> None:
    """Make every handler of the root logger write JSON lines; one to stderr, where there is none."""
    _write(JsonLines())


def write_text_lines() -> None:
    """Make every handler of the root logger write lines with time, level and name; ours from INFO on."""
    _write(logging.Formatter(LINE))
    for room in ("nfphasing_bluesky", "tango_device"):
        logging.getLogger(room).setLevel(logging.INFO)


def _write(formatter: logging.Formatter) -> None:
    logging.basicConfig()
    for handler in logging.getLogger().handlers:
        handler.setFormatter(formatter)
