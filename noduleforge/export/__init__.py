"""Trained models as folders that others can use."""
