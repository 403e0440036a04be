"""The published checkpoint format (``CxrAlignModel``), read and written."""
