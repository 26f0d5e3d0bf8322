"""Write the server, the device and its properties to a Tango database, so that Jive's tree shows them."""

from collections.abc import Mapping

import tango

from tango_device.properties import DEFAULTS

CLASS = "NfPhasing"


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
        ValueError: for a property that the class does not have.
        tango.DevFailed: when the database cannot be reached.
    """
    wanted = dict(properties or {})
    unknown = sorted(set(wanted) - set(DEFAULTS))
    if unknown:
        raise ValueError(f"{CLASS} has no properties {unknown}, expected some of {sorted(DEFAULTS)}")
    database = _database(tango_host)
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


def _database(tango_host: str | None) -> tango.Database:
    if tango_host is None:
        return tango.Database()
    host, _, port = tango_host.rpartition(":")
    return tango.Database(host, int(port))
