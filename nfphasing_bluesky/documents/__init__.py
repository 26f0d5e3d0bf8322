"""event-model in (documents to Frames) and out (Posteriors to a derived run)."""
