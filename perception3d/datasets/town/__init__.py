"""A generated driving world, written in the format of real data sets: world, sensors, tables."""
