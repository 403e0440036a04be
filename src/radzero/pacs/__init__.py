"""Connect a PACS with a model: images arrive by DICOMweb or C-STORE, and each result is stored exactly once."""
