"""The panel: `nfphasing-panel DEVICE`. Needs the extra `gui`."""
