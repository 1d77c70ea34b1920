"""The transformer decoder of the query heads (DETR's, as CMT runs it)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from perception3d.nn.attention import MultiHeadAttention


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention, feed-forward; each followed by residual, then norm.

    Args:
        channels: C.
        heads: of both attentions.
        hidden: of the feed-forward network.
        dropout: on the self-attention weights and on the residual branches of both attentions. The
            cross-attention weights and the feed-forward network have none (published; in the case
            of the weights by an argument in the wrong place, which we keep).
        dropout_everywhere: also where CMT has none (published for PETR).
    """

    def __init__(
        self,
        channels: int,
        *,
        heads: int,
        hidden: int,
        dropout: float,
        dropout_everywhere: bool = False,
    ) -> None:
        super().__init__()
        further = dropout if dropout_everywhere else 0.0
        self.self_attention = MultiHeadAttention(channels, heads, dropout=dropout)
        self.cross_attention = MultiHeadAttention(channels, heads, dropout=further)
        self.expand = nn.Linear(channels, hidden)
        self.reduce = nn.Linear(hidden, channels)
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(3))
        self.dropout = nn.Dropout(dropout)
        self.feed_dropout = nn.Dropout(further)

    def forward(
        self,
        query: Tensor,
        position: Tensor,
        key: Tensor,
        value: Tensor,
        blocked: Tensor | None,
        key_blocked: Tensor | None = None,
    ) -> Tensor:
        """(B, Q, C) -> (B, Q, C); as in :meth:`QueryDecoder.forward`, key = value + its code."""
        placed = query + position
        attended = self.self_attention(placed, placed, query, blocked=blocked)
        query = self.norms[0](query + self.dropout(attended))
        attended = self.cross_attention(query + position, key, value, blocked=key_blocked)
        query = self.norms[1](query + self.dropout(attended))
        hidden = self.feed_dropout(torch.relu(self.expand(query)))
        return self.norms[2](query + self.feed_dropout(self.reduce(hidden)))


class QueryDecoder(nn.Module):
    """Layers in a row; every layer's output passes one norm that all layers share.

    Args:
        channels: C; published 256.
        layers: published 6.
        heads: published 8.
        hidden: of the feed-forward networks; published 1024.
        dropout, dropout_everywhere: see :class:`DecoderLayer`; published 0.1.
        replace_nan: turn NaNs of the outputs into zeros, as the published code does. It hides a
            diverged run behind finite losses, so it is off: training is to stop where the first
                NaN appears.
    """

    def __init__(
        self,
        *,
        channels: int,
        layers: int,
        heads: int,
        hidden: int,
        dropout: float = 0.1,
        replace_nan: bool = False,
        dropout_everywhere: bool = False,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            DecoderLayer(
                channels,
                heads=heads,
                hidden=hidden,
                dropout=dropout,
                dropout_everywhere=dropout_everywhere,
            )
            for _ in range(layers)
        )
        self.post_norm = nn.LayerNorm(channels)
        self.replace_nan = replace_nan
        self.channels = channels
        self.apply(_xavier)

    def forward(
        self,
        content: Tensor | None,
        position: Tensor,
        memory: Tensor,
        memory_position: Tensor,
        *,
        blocked: Tensor | None = None,
        memory_blocked: Tensor | None = None,
    ) -> Tensor:
        """Outputs of all layers.

        Args:
            content: (B, Q, C) what queries start from; None for zeros.
            position: (B, Q, C) codes added to queries in every attention.
            memory: (B, N, C).
            memory_position: (B, N, C) added to the keys, not to the values.
            blocked: (Q, Q) bool, True where a query (row) must not see another (column).
            memory_blocked: (B, N) bool, True for padding, which no query sees.

        Returns:
            (layers, B, Q, C).
        """
        query = torch.zeros_like(position) if content is None else content
        key = memory + memory_position
        key_blocked = None if memory_blocked is None else memory_blocked[:, None, None]
        outputs = []
        for layer in self.layers:
            query = layer(query, position, key, memory, blocked, key_blocked)
            outputs.append(self.post_norm(query))
        stacked = torch.stack(outputs)
        return torch.nan_to_num(stacked) if self.replace_nan else stacked


def _xavier(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
