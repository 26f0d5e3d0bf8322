"""One file a modality behind one protocol, and their registry."""
