"""File to :class:`Radiograph`: raster and DICOM readers, and the geometry of preprocessing."""
