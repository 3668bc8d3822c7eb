"""What a reader gets: measurements, tables, figures and the report. Needs the extra ``report``.

Measurements are suggestions for a reader to confirm; no MET-RADS-P category is ever assigned.
"""
