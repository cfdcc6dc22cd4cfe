"""From raw data sets to what the data modules read."""
