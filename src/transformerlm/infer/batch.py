"""A batch of texts, and the model's logits for the next token of each.

`Batch` recomputes the whole text in every step: short, slow, and the definition. `CachedBatch` gives the same
logits and computes each token once. Sampling is separate.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from transformerlm.infer.prefill import last_states, padded
from transformerlm.infer.static_decoder import decoder_for
from transformerlm.nn import KVCache, TransformerLM

ROOM = 256
"""New tokens of each text for which a cache has room at first."""


def window_start(num_tokens: int, context_length: int) -> int:
    """Return the index of the first token of the model's context window in a text of `num_tokens`.

    0 while the whole text fits. A text that outgrows the context is cut to its newest context_length // 2
    tokens (at least 1), grows to context_length, is cut again, and so on. The window depends on the length
    alone: a generated text and the same text as a prompt are continued alike.

        context_length 4, lengths 1 to 9: starts at 0 0 0 0 3 3 3 6 6
    """
    if num_tokens <= context_length:
        return 0
    tokens_cut = context_length + 1 - max(1, context_length // 2)
    num_cuts = -((context_length - num_tokens) // tokens_cut)
    return num_cuts * tokens_cut


class Batch:
    """Texts as lists of ids, each of which grows by one id per step; nothing is cached."""

    def __init__(self, model: TransformerLM, prompts: Sequence[Sequence[int]]) -> None:
        self.model = model
        self.ids = [[int(token_id) for token_id in prompt] for prompt in prompts]
        self.device = model.final_norm.weight.device

    def next_logits(self) -> Tensor:
        """Return the logits of the next token of each text: [texts, vocabulary]."""
        ids, lengths = padded([self._window(ids) for ids in self.ids], self.device)
        # The head is a large part of a small model: compute it only at the positions that are needed.
        return self.model.logits(last_states(self.model.hidden_states(ids), lengths))

    def steps_ahead(self, limit: int) -> int:
        """Return the steps, at most `limit`, that can be taken before the host knows their tokens."""
        return 1

    def logits_after(self, new_ids: Tensor) -> Tensor:
        """Return `next_logits` behind ids that the host does not know and will `append` later."""
        raise NotImplementedError("without a cache, the host has to know all ids")

    def append(self, new_ids: Tensor, host_ids: Sequence[int]) -> None:
        """Append its new id to each text: LongTensor [texts], and the same ids as Python integers."""
        for ids, new_id in zip(self.ids, host_ids, strict=True):
            ids.append(new_id)

    def select(self, texts: Sequence[int]) -> None:
        """Keep these texts, in this order, and drop the others."""
        self.ids = [self.ids[text] for text in texts]

    def _window(self, ids: list[int]) -> list[int]:
        """Return the ids in the context window of a text."""
        return ids[window_start(len(ids), self.model.config.context_length) :]


class CachedBatch(Batch):
    """A batch that keeps the keys and values of all tokens but the newest in a cache.

    The cache grows with the texts: it has room for `ROOM` new tokens at first, and twice as many as it holds
    whenever it is full.

    Args:
        max_new_tokens: largest number of tokens that will be appended to a text.
    """

    def __init__(self, model: TransformerLM, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
        super().__init__(model, prompts)
        longest = max(len(ids) for ids in self.ids) + min(max_new_tokens, ROOM)
        capacity = min(model.config.context_length, longest)
        self.cache = KVCache.for_model(
            model.config, len(self.ids), self.device, self._cache_dtype(), capacity
        )
        self.decoder = decoder_for(model, self.cache)
        self.new_ids: Tensor | None = None

    def next_logits(self) -> Tensor:
        """Return each text's next-token logits [texts, vocabulary]; the next call may overwrite them."""
        if self.new_ids is None:
            return self.decoder.fill(range(len(self.ids)), [self._window(ids) for ids in self.ids])
        self._move_windows()
        self._make_room()
        return self.decoder(self.new_ids)

    def append(self, new_ids: Tensor, host_ids: Sequence[int]) -> None:
        """Append its new id to each text."""
        super().append(new_ids, host_ids)
        self.new_ids = new_ids

    def select(self, texts: Sequence[int]) -> None:
        """Keep these texts, in this order, and drop the others."""
        super().select(texts)
        self.cache.select(texts)

    def steps_ahead(self, limit: int) -> int:
        """Return the steps until the window of a text moves, for which its ids are needed."""
        context_length = self.model.config.context_length
        lengths = {len(ids) for ids in self.ids}
        for number in range(1, limit):
            for length in lengths:
                before, after = (window_start(length + n, context_length) for n in (number - 1, number))
                if after > before:
                    return number
        return max(1, limit)

    def logits_after(self, new_ids: Tensor) -> Tensor:
        """Return the logits behind ids that the host does not know."""
        self._make_room()
        return self.decoder(new_ids)

    def _make_room(self) -> None:
        """Enlarge a cache that has no room for the newest tokens."""
        if self.cache.max_length == self.cache.capacity:
            self._grow(2 * self.cache.capacity)

    def _grow(self, capacity: int) -> None:
        """Enlarge the cache to `capacity` tokens a row, at most the model's context."""
        self.cache.grow(min(self.model.config.context_length, capacity))
        self.decoder = decoder_for(self.model, self.cache)

    def _move_windows(self) -> None:
        """Refill the cache rows of texts whose window starts later because of their newest token."""
        context_length = self.model.config.context_length
        starts = [window_start(len(ids), context_length) for ids in self.ids]
        before = [window_start(len(ids) - 1, context_length) for ids in self.ids]
        moved = [text for text in range(len(self.ids)) if starts[text] > before[text]]
        # All windows that moved are equally long: half the context, without the newest token.
        windows = [self.ids[text][starts[text] : -1] for text in moved]
        if moved and not windows[0]:
            lengths = self.cache.lengths.tolist()
            self.cache.set_lengths([0 if text in moved else n for text, n in enumerate(lengths)])
        elif moved:
            self.decoder.fill(moved, windows, wants_logits=False)

    def _cache_dtype(self) -> torch.dtype:
        """Return the dtype of the keys and values that the model computes."""
        if torch.is_autocast_enabled(self.device.type):
            return torch.get_autocast_dtype(self.device.type)
        return self.model.final_norm.weight.dtype
