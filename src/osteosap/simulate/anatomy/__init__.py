"""A procedural person as a tissue map with bones. Start at :mod:`.build`.

``build`` calls, from the outside in: ``soft_tissue`` (``envelope``, ``trunk``, ``muscles``,
``chest``, ``abdomen``, ``pelvic_organs``, ``neck``, ``nodes_nerves``), ``brain`` and ``face``, then
``bones``
(``spine``, ``ribs``, ``girdles``, ``pelvis``, ``head``; ``bone`` paints one), and last ``marrow``.
"""
