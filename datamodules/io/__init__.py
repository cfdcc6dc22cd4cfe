"""Files: volumes, DICOM, radiographs."""
