"""Files and catalogs: HDF5/NeXus writer, readers, tiled catalogs, queries."""
