"""Metastases and benign look-alikes of one person over time. Start at :mod:`.painting`.

``plan`` draws lesions before they meet a voxel, ``lesions`` finds their places, ``lookalikes``
holds the table of benign findings, ``painting`` puts one time point into a body.
"""
