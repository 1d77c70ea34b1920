"""Small worlds in which a task or a sensor starves, with most rules, over seeds.

    python -m perception3d.balancing.toys.tasks      # a map, its loss a thousand times too small
    python -m perception3d.balancing.toys.sensors    # a camera that LiDAR makes almost needless

Both run on one core in minutes; :mod:`perception3d.balancing.example` is the short form to copy.
"""
