"""Between a PACS and a model: films come in by DICOMweb or C-STORE, results go back, each exactly once."""
