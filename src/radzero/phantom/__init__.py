"""Make synthetic chest radiographs (phantoms) with known findings, masks and reports."""
