"""One vector per token id."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from transformerlm.nn.init import truncated_normal_
from transformerlm.nn.linear import Linear


class Embedding(nn.Module):
    """Row `id` of a table, from ids [...] to vectors [..., embedding_dim].

    `weight` is [num_embeddings, embedding_dim], drawn with standard deviation 1.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_embeddings, embedding_dim, device=device, dtype=dtype))
        truncated_normal_(self.weight, std=1.0)

    def tie_to(self, head: Linear) -> None:
        """Use the matrix of the head: one matrix for both."""
        self.weight = head.weight

    def forward(self, token_ids: Tensor) -> Tensor:
        """Ids [...] of int32 or int64 -> [..., embedding_dim].

        Raises:
            IndexError: for an id below 0 or at or above num_embeddings (on a GPU: a device assertion).
        """
        # Not weight[token_ids]: it would take -1 for the last row, and its backward pass is 2.5 times slower.
        rows = self.weight.index_select(0, token_ids.flatten())
        return rows.view(*token_ids.shape, self.weight.shape[1])

    def extra_repr(self) -> str:
        """Return the sizes that `print(model)` shows."""
        num_embeddings, embedding_dim = self.weight.shape
        return f"num_embeddings={num_embeddings}, embedding_dim={embedding_dim}"
