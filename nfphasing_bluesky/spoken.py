"""What the command line says: keywords of Python, which errors name, become the options that users type.

Errors are raised far from the command line, and read in notebooks and logs as well: `pass q_unit='1/nm'`.
Here, at the edge, they become `pass --q-unit '1/nm'`, for the options that the command at hand has.
"""

import logging
import re
from collections.abc import Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

from rich.console import Console
from typer.core import TyperGroup

from nfphasing_bluesky.core import ReconstructionSettings, StreamSettings

OPTIONS: ContextVar[Mapping[str, str]] = ContextVar("options", default=MappingProxyType({}))
"""Keyword -> what is typed for it, of the command that is running."""

_OTHER_NAMES = {"renamed": "rename", "contrast_inv_cm2": "contrast"}
"""Keywords that are not called as the parameter of the command that gives them."""

_SETTINGS: dict[str, type[ReconstructionSettings] | type[StreamSettings]] = {
    "stream": StreamSettings,
    "reconstruction": ReconstructionSettings,
}
_VALUE = r"\([^()]*\)|'[^']*'|"


def in_options(text: str, options: Mapping[str, str]) -> str:
    """Return a message in which `keyword=value` is what a user types.

    Args:
        text: the message.
        options: keyword -> what is typed for it: an option, or a name inside of a settings file.
    """
    if not options:
        return text
    names = "|".join(sorted(options, key=len, reverse=True))
    keyword = re.compile(rf"(?<![\w./-])({names})=({_VALUE})(?=(\S?))")

    def typed(found: re.Match[str]) -> str:
        option = options[found[1]]
        if not option.startswith("--"):
            return f"{option}{'=' if found[2] else ''}{found[2]} (in the settings)"
        value = re.sub(r"\s", "", found[2].strip("()")) if found[2].startswith("(") else found[2]
        follows = bool(value) or (found[3] and found[3] not in ",;:.)")
        return f"{option} {value}" if follows else option

    return keyword.sub(typed, text)


def options_of(command: Any) -> dict[str, str]:
    """Keyword -> option of a command, and of one that takes settings -> where it is in these."""
    found: dict[str, str] = {}
    if any(parameter.name == "settings" for parameter in command.params):
        for node, settings in _SETTINGS.items():
            found |= {name: f"{node}.{name}" for name in settings.model_fields}
    options = [p for p in command.params if p.param_type_name == "option"]
    taken = {str(option.name): max(option.opts, key=len) for option in options}
    return found | taken | {keyword: taken[name] for keyword, name in _OTHER_NAMES.items() if name in taken}


def spoken(text: str) -> str:
    """Return a message in the words of the command that is running."""
    return in_options(text, OPTIONS.get())


def spoken_results(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return results for JSON, their errors in the words of the command that is running."""
    return [
        {k: spoken(v) if k == "error" and isinstance(v, str) else v for k, v in r.items()} for r in results
    ]


class SpokenConsole(Console):
    """Prints in the words of the command that is running."""

    def print(self, *objects: Any, **how: Any) -> None:
        """Print as `Console.print` does."""
        super().print(*(spoken(one) if isinstance(one, str) else one for one in objects), **how)


class SpokenLines(logging.Formatter):
    """Log lines in the words of the command that is running."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        return spoken(super().format(record))


class Verbs(TyperGroup):
    """The commands; the one that runs gives its words to what is said."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that the arguments name."""
        name, command, rest = super().resolve_command(ctx, args)
        OPTIONS.set({} if command is None else options_of(command))
        return name, command, rest


stderr = SpokenConsole(stderr=True)
