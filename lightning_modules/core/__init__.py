"""Training: thin Lightning wiring lives one level up; this core imports no Lightning."""
