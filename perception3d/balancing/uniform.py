"""All tasks alike: the plain sum of losses (unitary scalarisation, Kurin et al. 2201.04122)."""

from perception3d.balancing.rule import Rule


class Uniform(Rule):
    """Weight 1 for each task."""
