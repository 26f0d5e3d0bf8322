"""The device's properties: their defaults and what they mean, for the class and for the database."""

from nfphasing_bluesky.streaming.endpoints import CONTROL, DOCUMENTS, RESULTS

DEFAULTS: dict[str, tuple[str, str]] = {
    "worker": (
        "attach",
        "attach: use the worker that runs at the endpoints below; child: start one here and keep it alive.",
    ),
    "model_name": ("", "Model that a worker without one is told to load; empty for none."),
    "torch_device": ("auto", "Where a child worker computes: auto, cpu, cuda, cuda:1."),
    "n_samples": (
        "256",
        "Draws of a child worker for each frame; for images without a GPU 16, or frames wait.",
    ),
    "documents_endpoint": (
        DOCUMENTS,
        "Document source: where a child worker takes Bluesky documents (0MQ PULL).",
    ),
    "proxy_endpoint": (
        "",
        "Document source: output of a bluesky 0MQ proxy that a child worker subscribes to; empty for none.",
    ),
    "results_endpoint": (RESULTS, "Worker endpoint: where it publishes results and heartbeats (0MQ PUB)."),
    "control_endpoint": (CONTROL, "Worker endpoint: where it takes orders (0MQ REP)."),
    "curve_secret": (
        "",
        "Worker on another machine: file of this server's certificate, NAME.key_secret of `nfphasing keys`; "
        "empty for a worker on this machine.",
    ),
    "curve_server": ("", "Worker on another machine: file of its public key, worker.key."),
    "catalog": ("", "Folder of the catalog that a child worker writes derived runs to; empty for none."),
    "data_key": (
        "",
        "Data key of the frames for a child worker; empty finds the only array. Of the frame source: "
        "what its frames are called; empty takes the attribute's name.",
    ),
    "stream": ("primary", "Stream of the frames for a child worker and from the frame source."),
    "probe": (
        "",
        "File with the probe (.npz, .h5, .cxi) of ptychographic scans, for a child worker; empty for others.",
    ),
    "positions": (
        "",
        "Data keys of a scan's rows and columns, as sam_y,sam_x, for a child worker; empty finds the motors.",
    ),
    "positions_sign": (
        "",
        "Signs of a scan's rows and columns, as -1,1, for a child worker; empty takes what the run says.",
    ),
    "queue_policy": ("block", "What a child worker's full queue does: block, latest or sample."),
    "source_attribute": (
        "",
        "Frame source without Bluesky: image attribute of another device, as lab/eiger/1/last_image (IMAGE "
        "or SPECTRUM of numbers, or DevEncoded as LImA's); Start begins a run of its frames, Stop ends it.",
    ),
    "source_number": (
        "",
        "Frame source: attribute of the same device with the number of the image, as last_image_ready; empty "
        "takes it from a VIDEO_IMAGE, or counts events of the image.",
    ),
    "source_command": (
        "",
        "Frame source: command that gives an image by its number, as readImage; empty reads the attribute, "
        "and frames that come faster than they can be read are lost.",
    ),
    "source_period_ms": ("20", "Frame source: how often one that pushes no events is looked at, ms."),
    "source_first": ("0", "Frame source: number of an acquisition's first frame; LImA counts from 0."),
    "source_metadata": (
        "",
        "Frame source: JSON object for the start documents, as "
        '{"sample": "A", "nfphasing": {"geometry": {...}}}.',
    ),
}

OWN_ATTRIBUTES = {
    "State": "INIT: no worker yet, or it loads a model. STANDBY: stopped, or no model. ON: waits for frames. "
    "RUNNING: reconstructs a run. ALARM and FAULT: Status says why.",
    "Status": "What the State means now, and what to do next.",
}
"""What describes the two attributes that every Tango device has."""
