"""Secrets that must not get into messages and logs."""

import re


def redacted(text: str) -> str:
    """Return a text without the secrets in its URIs: API keys, tokens, and passwords before the host."""
    text = re.sub(r"(?i)((?:api[_-]?key|token|secret|password)=)[^&\s'\"]+", r"\1***", text)
    return re.sub(r"(://[^/\s:@]*:)[^/\s]+@", r"\1***@", text)
