"""Figures of what models answer, from tables: numpy, pandas and scipy alone."""
