"""The whole experiment of the paper, from a cohort to a report (``osteosap reproduce``).

:mod:`~osteosap.study.config` says what is done, :mod:`~osteosap.study.plan` turns that into units
(each a command of osteosap with what it needs and makes), :mod:`~osteosap.study.engine` runs them,
on this machine or through SLURM. A finished unit is on record and is not run again.
"""
