"""Modality heads: an intensity window, conditioners and regularizers."""
