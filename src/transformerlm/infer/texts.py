"""Texts under way in one batch, and the model's logits for the token that follows each of them.

`Texts` computes every step from the beginning: short, slow, and the definition. `CachedTexts` gives
the same logits and computes each token once. Neither knows how a token is chosen.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from transformerlm.nn import KVCache, TransformerLM


def window_start(num_tokens: int, context_length: int) -> int:
    """Index of the first token that the model sees of a text of `num_tokens`.

    0 while the whole text fits. A text that outgrows the context is cut to its newest
    context_length // 2 tokens (1 at least), grows to context_length again, is cut again. This is a
    function of the length alone: a text goes on in the same way whoever wrote its beginning.

        context_length 4, lengths 1 to 9: starts at 0 0 0 0 3 3 3 6 6
    """
    tokens_cut = context_length + 1 - max(1, context_length // 2)
    num_cuts = -((context_length - num_tokens) // tokens_cut)
    return max(0, num_cuts) * tokens_cut


class Texts:
    """Lists of ids that grow by one each per step; the logits are computed anew each time."""

    def __init__(self, model: TransformerLM, prompts: Sequence[Sequence[int]]) -> None:
        self.model = model
        self.ids = [[int(token_id) for token_id in prompt] for prompt in prompts]
        self.device = model.embedding.weight.device

    def next_logits(self) -> Tensor:
        """[texts, vocabulary]"""
        padded, lengths = self._windows()
        return self._last_logits(self.model.hidden_states(padded), lengths)

    def append(self, new_ids: Tensor, on_host: Sequence[int]) -> None:
        """Continue each text with its new id: LongTensor [texts], and the same ids as Python numbers."""
        for ids, new_id in zip(self.ids, on_host, strict=True):
            ids.append(new_id)

    def select(self, texts: Sequence[int]) -> None:
        """Keep these texts, in this order, and drop the others."""
        self.ids = [self.ids[text] for text in texts]

    def _windows(self) -> tuple[Tensor, list[int]]:
        """What the model sees of each text, padded on the right to [texts, longest], and the lengths.

        What stands in the padding is of no consequence: no token attends to a later one.
        """
        context_length = self.model.config.context_length
        windows = [ids[window_start(len(ids), context_length) :] for ids in self.ids]
        lengths = [len(window) for window in windows]
        longest = max(lengths)
        padded = [window + [0] * (longest - len(window)) for window in windows]
        return torch.tensor(padded, device=self.device), lengths

    def _last_logits(self, hidden: Tensor, lengths: Sequence[int]) -> Tensor:
        # The head is a large part of a small model: only for the positions whose logits are wanted.
        last = torch.tensor(lengths, device=self.device) - 1
        return self.model.logits(hidden[torch.arange(len(lengths), device=self.device), last])


class CachedTexts(Texts):
    """The same texts and logits, with the keys and values of all tokens but the newest in a cache.

    Args:
        max_new_tokens: what the cache, allocated once, has to have room for besides the prompts.
    """

    def __init__(self, model: TransformerLM, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
        super().__init__(model, prompts)
        config = model.config
        longest = max(len(ids) for ids in self.ids) + max_new_tokens
        capacity = min(config.context_length, longest)
        self.cache = KVCache.for_model(config, len(self.ids), self.device, self._cache_dtype(), capacity)
        self.new_ids: Tensor | None = None

    def next_logits(self) -> Tensor:
        """[texts, vocabulary]"""
        if self.new_ids is None:
            padded, lengths = self._windows()
            hidden = self.model.hidden_states(padded, self.cache)
            self.cache.set_lengths(lengths)
            return self._last_logits(hidden, lengths)
        self._move_windows()
        return self.model.logits(self.model.hidden_states(self.new_ids.unsqueeze(-1), self.cache)[:, -1])

    def append(self, new_ids: Tensor, on_host: Sequence[int]) -> None:
        """Continue each text with its new id."""
        super().append(new_ids, on_host)
        self.new_ids = new_ids

    def select(self, texts: Sequence[int]) -> None:
        """Keep these texts, in this order, and drop the others."""
        super().select(texts)
        self.cache.select(texts)

    def _move_windows(self) -> None:
        """Where a text's newest token makes its window jump, fill its row of the cache anew, up to there."""
        context_length = self.model.config.context_length
        starts = [window_start(len(ids), context_length) for ids in self.ids]
        before = [window_start(len(ids) - 1, context_length) for ids in self.ids]
        moved = [text for text in range(len(self.ids)) if starts[text] > before[text]]
        if moved:
            self._refill(moved, [self.ids[text][starts[text] : -1] for text in moved])
            self.cache.set_lengths(
                [len(ids) - 1 - start for ids, start in zip(self.ids, starts, strict=True)]
            )

    def _refill(self, rows: list[int], windows: list[list[int]]) -> None:
        # All windows that jump are equally long then: half the context, less the newest token.
        length = len(windows[0])
        if length == 0:
            return
        fresh = KVCache.for_model(self.model.config, len(rows), self.device, self._cache_dtype(), length)
        self.model.hidden_states(torch.tensor(windows, device=self.device), fresh)
        for old, new in zip(self.cache.layers(0), fresh.layers(0), strict=True):
            old.keys[rows, :, :length] = new.keys
            old.values[rows, :, :length] = new.values

    def _cache_dtype(self) -> torch.dtype:
        """The precision in which keys and values come out of the model."""
        if torch.is_autocast_enabled(self.device.type):
            return torch.get_autocast_dtype(self.device.type)
        return self.model.embedding.weight.dtype
