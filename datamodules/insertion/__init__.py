"""Synthetic nodules for whole studies: what is asked for, where it goes, what it changes."""
