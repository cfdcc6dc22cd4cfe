"""Figures of what models answer, from tables: numpy and pandas alone."""
