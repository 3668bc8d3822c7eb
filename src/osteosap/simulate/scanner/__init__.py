"""The virtual scanner. Start at :mod:`.acquire`; its settings are in :mod:`.protocol`.

``sites`` holds three protocols. A station's way: ``lattice`` (pose, voxel averaging), ``coarse``
and ``field`` (off-resonance), ``epi`` (distortion), ``artefacts`` (coils, breath, ghosts, noise).
"""
