"""event-model in (documents -> Frames) and out (Posteriors -> derived run)."""
