"""Write the server, the device and its properties to a Tango database, so that Jive's tree shows them."""

import os
import re
from collections.abc import Mapping, Sequence

import tango

from nfphasing_bluesky.clients.properties import DEFAULTS, OWN_ATTRIBUTES
from nfphasing_bluesky.core import SettingsError, TransportError
from nfphasing_bluesky.core.secrets import redacted

CLASS = "NfPhasing"
_DEVICE = re.compile(r"[\w.-]+/[\w.-]+/[\w.-]+")


def register(
    device: str,
    server: str = f"{CLASS}/1",
    properties: Mapping[str, str] | None = None,
    tango_host: str | None = None,
) -> None:
    """Add the device to the database; properties that are there already keep their values.

    Args:
        device: `domain/family/member`.
        server: `NfPhasing/INSTANCE`.
        properties: values other than the defaults; these overwrite what is there.
        tango_host: `HOST:PORT`; None takes TANGO_HOST, as every Tango client does.

    Raises:
        SettingsError: for a property that the class does not have or with a secret in it, or a name of
            another form.
        TransportError: when the database cannot be reached or refuses.
    """
    wanted = dict(properties or {})
    if unknown := sorted(set(wanted) - set(DEFAULTS)):
        raise SettingsError(f"{CLASS} has no properties {unknown}, expected some of {sorted(DEFAULTS)}")
    for name, value in wanted.items():
        if redacted(value) != value:
            raise SettingsError(
                f"property {name}={redacted(value)!r} holds a secret, and everybody can read the database; "
                "put the key into the environment variable TILED_API_KEY of the server"
            )
    if not _DEVICE.fullmatch(device):
        raise SettingsError(f"device {device!r}, expected domain/family/member, as lab/nfphasing/1")
    if not re.fullmatch(rf"{CLASS}/[\w.-]+", server):
        raise SettingsError(f"server {server!r}, expected {CLASS}/INSTANCE, as {CLASS}/1")
    try:
        _write(database_at(tango_host), device, server, wanted)
    except tango.DevFailed as error:
        raise TransportError(f"the Tango database refused {device}: {reason(error)}") from error


def database_at(tango_host: str | None = None) -> tango.Database:
    """Open a Tango database, `HOST:PORT` or that of TANGO_HOST.

    Raises:
        TransportError: it does not answer, or no address is known.
    """
    where = tango_host or "TANGO_HOST " + os.environ.get("TANGO_HOST", "(not set)")
    try:
        if tango_host is None:
            return tango.Database()
        host, _, port = tango_host.rpartition(":")
        return tango.Database(host, int(port))
    except (tango.DevFailed, ValueError) as error:
        why = reason(error) if isinstance(error, tango.DevFailed) else "expected HOST:PORT"
        raise TransportError(
            f"no Tango database at {where}: {why}; set TANGO_HOST=HOST:PORT, or start one with "
            "scripts/tango-db.sh up"
        ) from error


def servers_of(database: tango.Database) -> Sequence[str]:
    """Names of the registered servers of the class, as `NfPhasing/1`."""
    return tuple(database.get_server_list(f"{CLASS}/*").value_string)


def reason(error: tango.DevFailed) -> str:
    """What a Tango error says first, in one line."""
    return " ".join(str(error.args[0].desc).split()) if error.args else str(error)


def _write(database: tango.Database, device: str, server: str, wanted: Mapping[str, str]) -> None:
    info = tango.DbDevInfo()
    info.name, info._class, info.server = device, CLASS, server  # noqa: SLF001 (PyTango's name for it)
    database.add_device(info)
    present = database.get_device_property(device, list(DEFAULTS))
    values = {name: default for name, (default, _) in DEFAULTS.items() if not list(present[name])}
    database.put_device_property(device, {name: [value] for name, value in {**values, **wanted}.items()})
    database.put_class_property(
        CLASS,
        {
            "ProjectTitle": ["nfphasing-bluesky"],
            "Description": ["Posterior electron densities of X-ray scattering frames, live."],
        },
    )
    # the device can't describe attributes that Tango declares: they are read from the database alone
    there = database.get_device_attribute_property(device, list(OWN_ATTRIBUTES))
    bare = [name for name in OWN_ATTRIBUTES if "description" not in there.get(name, {})]
    database.put_device_attribute_property(device, {n: {"description": OWN_ATTRIBUTES[n]} for n in bare})
