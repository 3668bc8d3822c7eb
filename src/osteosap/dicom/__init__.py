"""osteosap.dicom."""
