"""From station images to one exam: stitching, b1000 and ADC, all on the T1 grid."""

from osteosap.preprocess.body import body_mask
from osteosap.preprocess.chain import AssembledExam, assemble_exam
from osteosap.preprocess.config import PreprocessConfig
from osteosap.preprocess.normalise import scale_percentiles

__all__ = [
    "AssembledExam",
    "PreprocessConfig",
    "assemble_exam",
    "body_mask",
    "scale_percentiles",
]
