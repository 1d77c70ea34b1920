"""Multi-head attention on torch's fused kernels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend
from torch.nn.functional import linear, scaled_dot_product_attention

#: Torch's numbers of its kernels.
KERNELS = {
    SDPBackend.MATH.value: "math",
    SDPBackend.FLASH_ATTENTION.value: "flash",
    SDPBackend.EFFICIENT_ATTENTION.value: "efficient",
    SDPBackend.CUDNN_ATTENTION.value: "cudnn",
}


class MultiHeadAttention(nn.Module):
    """Attention with parameters and mathematics of ``torch.nn.MultiheadAttention``, batch first.

    The core runs in ``scaled_dot_product_attention``, so no (queries x keys) matrix is stored
    where a fused kernel exists. Query, key and value may come from different tensors, as position
    codes require.

    Args:
        channels: C, of queries, keys, values and output.
        heads: number of heads; divides C.
        dropout: on the attention weights, in training.
    """

    def __init__(self, channels: int, heads: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"{heads} heads do not divide {channels} channels")
        self.in_proj_weight = nn.Parameter(torch.empty(3 * channels, channels))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * channels))
        self.out_proj = nn.Linear(channels, channels)
        self.heads = heads
        self.dropout = dropout
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, *, blocked: Tensor | None = None
    ) -> Tensor:
        """Attention of N queries over M keys.

        Args:
            query: (B, N, C).
            key, value: (B, M, C).
            blocked: (N, M) bool, True where a query must not see a key; (B, 1, 1, M) where that
                depends on the sample and the key alone.

        Returns:
            (B, N, C).
        """
        w_q, w_k, w_v = self.in_proj_weight.chunk(3)
        b_q, b_k, b_v = self.in_proj_bias.chunk(3)
        q = self._split(linear(query, w_q, b_q))
        k = self._split(linear(key, w_k, b_k))
        v = self._split(linear(value, w_v, b_v))
        mixed = scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=None if blocked is None else ~blocked,
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.out_proj(mixed.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def attention_kernels(
    model: nn.Module, device: torch.device, dtype: torch.dtype
) -> dict[str, str] | None:
    """Which of its exact kernels torch takes for a model's attention.

    Args:
        model: its first :class:`MultiHeadAttention` is asked for.
        device, dtype: where and in which precision attention will run.

    Returns:
        Kernel ("flash", "efficient", "cudnn", "math") for calls "without mask" and "with mask";
        None for a model without attention.
    """
    module = next((m for m in model.modules() if isinstance(m, MultiHeadAttention)), None)
    if module is None:
        return None
    size = module.out_proj.in_features // module.heads
    probe = torch.zeros(1, module.heads, 16, size, device=device, dtype=dtype, requires_grad=True)
    mask = torch.ones(16, 16, dtype=torch.bool, device=device)
    chosen = {}
    for name, attn_mask in (("without mask", None), ("with mask", mask)):
        number = torch._fused_sdp_choice(probe, probe, probe, attn_mask)
        chosen[name] = KERNELS.get(number, f"number {number}")
    return chosen
