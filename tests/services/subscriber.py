"""A Tango client of its own process: `python subscriber.py DEVICE ATTRIBUTE...` counts change events.

For every line on stdin it prints what came so far, as JSON: name -> [events, last scalar].
"""

import json
import sys

import tango


def main(device, *names):
    heard = {name: [0, None] for name in names}
    proxy = tango.DeviceProxy(device)

    def hear(name, event):
        if not event.err and event.attr_value.value is not None:
            value = event.attr_value.value
            heard[name] = [heard[name][0] + 1, value if isinstance(value, (int, float, str)) else None]

    for name in names:
        proxy.subscribe_event(name, tango.EventType.CHANGE_EVENT, lambda event, name=name: hear(name, event))
    print("ready", flush=True)
    for _ in sys.stdin:
        print(json.dumps(heard), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
