"""Scores against a known truth: matching of lesions, metrics, exams and cohorts. No network here.

:mod:`~osteosap.evaluation.matching` says which lesions touch,
:mod:`~osteosap.evaluation.metrics` turns that into numbers,
:mod:`~osteosap.evaluation.scores` reads folders and scores exams and cohorts.
"""
