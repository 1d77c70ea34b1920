"""MGDA-UB (Sener and Koltun, 1810.04650): the shortest vector in the hull of the gradients."""

from __future__ import annotations

from torch import Tensor

from perception3d.balancing.rule import Rule
from perception3d.balancing.simplex import minimum_on_simplex


class Mgda(Rule):
    """Weights on the simplex that make the sum shortest: no task gets worse to first order.

    Measured where tasks part, the "upper bound" of the paper, so that no backward pass is added.
    """

    def weigh(self, gram: Tensor, active: Tensor) -> Tensor:
        """See :meth:`Rule.weigh`."""
        # By the mean square length: the solver's limits do not depend on the loss's scale.
        scaled = gram / gram.diagonal().sum()
        return minimum_on_simplex(scaled[None], scaled.new_zeros(1, len(scaled)), active)[0]
