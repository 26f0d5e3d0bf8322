"""NfPhasing Tango device server: a thin face over the worker."""
