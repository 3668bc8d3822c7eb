"""A label map of a real body as the person, deformed by a seed. Start at :mod:`.source`.

``source`` reads and checks the map (``names`` says what a label means), ``fill`` completes what it
lacks, ``painting`` carries it through a ``deformation`` into a body, ``extras`` adds small organs.
"""
