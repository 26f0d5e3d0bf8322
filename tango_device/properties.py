"""The device's properties: their defaults and what they mean, for the class and for the database."""

from nfphasing_bluesky.streaming.endpoints import CONTROL, DOCUMENTS, RESULTS

DEFAULTS: dict[str, tuple[str, str]] = {
    "worker": (
        "attach",
        "attach: use the worker that runs at the endpoints below; child: start one here and keep it alive.",
    ),
    "model_name": ("", "Model that a worker without one is told to load; empty for none."),
    "torch_device": ("auto", "Where a child worker computes: auto, cpu, cuda, cuda:1."),
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
    "catalog": ("", "Folder of the catalog that a child worker writes derived runs to; empty for none."),
    "data_key": ("", "Data key of the frames for a child worker; empty finds the only array."),
    "stream": ("primary", "Stream of the frames for a child worker."),
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
}
