"""osteosap: bone metastases on whole-body MRI, from DICOM to lesion masks and a report.

A research tool, not a medical device. Start reading at :mod:`osteosap.workflow`.
"""

__version__ = "0.1.0"
