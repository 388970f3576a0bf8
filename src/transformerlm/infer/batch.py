"""A batch of texts, and the model's logits for the next token of each.

`Batch` recomputes the whole text in every step: short, slow, and the definition. `CachedBatch` gives the same
logits and computes each token once. Sampling is separate.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from transformerlm.infer.decoder import Decoder, make_decoder
from transformerlm.nn import KVCache, TransformerLM


def window_start(num_tokens: int, context_length: int) -> int:
    """Return the index of the first token of the model's context window in a text of `num_tokens`.

    0 while the whole text fits. A text that outgrows the context is cut to its newest context_length // 2
    tokens (at least 1), grows to context_length, is cut again, and so on. The window depends on the length
    alone: a generated text and the same text as a prompt are continued alike.

        context_length 4, lengths 1 to 9: starts at 0 0 0 0 3 3 3 6 6
    """
    tokens_cut = context_length + 1 - max(1, context_length // 2)
    num_cuts = -((context_length - num_tokens) // tokens_cut)
    return max(0, num_cuts) * tokens_cut


class Batch:
    """Texts as lists of ids, each of which grows by one id per step; nothing is cached."""

    def __init__(self, model: TransformerLM, prompts: Sequence[Sequence[int]]) -> None:
        self.model = model
        self.ids = [[int(token_id) for token_id in prompt] for prompt in prompts]
        self.device = model.embedding.weight.device

    def next_logits(self) -> Tensor:
        """Return the logits of the next token of each text: [texts, vocabulary]."""
        padded, lengths = self._padded([self._window(ids) for ids in self.ids])
        # The head is a large part of a small model: compute it only at the positions that are needed.
        return self.model.logits(self._last(self.model.hidden_states(padded), lengths))

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

    def _padded(self, windows: Sequence[Sequence[int]]) -> tuple[Tensor, list[int]]:
        """Return windows padded on the right, LongTensor [texts, longest], and their lengths.

        The padding changes nothing: no token attends to a later one.
        """
        lengths = [len(window) for window in windows]
        longest = max(lengths)
        padded = [[*window, *[0] * (longest - len(window))] for window in windows]
        return torch.tensor(padded, dtype=torch.long, device=self.device), lengths

    def _last(self, hidden: Tensor, lengths: Sequence[int]) -> Tensor:
        """Return each row's hidden state at its last token: [rows, d_model]."""
        last = torch.tensor(lengths, dtype=torch.long, device=self.device) - 1
        return hidden[torch.arange(len(lengths), dtype=torch.long, device=self.device), last]


class CachedBatch(Batch):
    """A batch that keeps the keys and values of all tokens but the newest in a cache.

    Args:
        max_new_tokens: capacity of the cache in addition to the prompts; it is allocated once.
    """

    def __init__(self, model: TransformerLM, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
        super().__init__(model, prompts)
        longest = max(len(ids) for ids in self.ids) + max_new_tokens
        self.cache = self._empty_cache(len(self.ids), min(model.config.context_length, longest))
        self.decoder: Decoder | None = None
        self.new_ids: Tensor | None = None

    def next_logits(self) -> Tensor:
        """Return each text's next-token logits [texts, vocabulary]; the next call may overwrite them."""
        if self.new_ids is None:
            windows = [self._window(ids) for ids in self.ids]
            return self.model.logits(self._fill(range(len(self.ids)), windows))
        self._move_windows()
        self.decoder = self.decoder or make_decoder(self.model, self.cache)
        return self.decoder(self.new_ids)

    def append(self, new_ids: Tensor, host_ids: Sequence[int]) -> None:
        """Append its new id to each text."""
        super().append(new_ids, host_ids)
        self.new_ids = new_ids

    def select(self, texts: Sequence[int]) -> None:
        """Keep these texts, in this order, and drop the others."""
        super().select(texts)
        self.cache.select(texts)

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
            self._fill(moved, windows)

    def _fill(self, texts: Sequence[int], windows: Sequence[Sequence[int]]) -> Tensor:
        """Compute the cache rows of `texts` from windows; return the last hidden states [windows,
        d_model]."""
        last: dict[int, Tensor] = {}
        for group in groups_of_similar_length(windows):
            hidden = self._fill_group([texts[index] for index in group], [windows[index] for index in group])
            last.update(zip(group, hidden, strict=True))
        return torch.stack([last[index] for index in range(len(windows))])

    def _fill_group(self, texts: Sequence[int], windows: Sequence[Sequence[int]]) -> Tensor:
        # Equal windows, such as those of a prompt with several samples, are computed once.
        row_of = {window: row for row, window in enumerate(dict.fromkeys(map(tuple, windows)))}
        rows = [row_of[tuple(window)] for window in windows]
        padded, lengths = self._padded(list(row_of))
        cache = self._empty_cache(*padded.shape)
        hidden = self.model.hidden_states(padded, cache)
        cache.set_lengths(lengths)
        self.cache.put(texts, cache, rows)
        return self._last(hidden, lengths)[rows]

    def _empty_cache(self, rows: int, capacity: int) -> KVCache:
        return KVCache.for_model(self.model.config, rows, self.device, self._cache_dtype(), capacity)

    def _cache_dtype(self) -> torch.dtype:
        """Return the dtype of the keys and values that the model computes."""
        if torch.is_autocast_enabled(self.device.type):
            return torch.get_autocast_dtype(self.device.type)
        return self.model.embedding.weight.dtype


MAX_TOKENS = 8192
"""Maximum number of tokens in a group, padding included, for its memory."""
MAX_PADDING_FRACTION = 0.2
"""Largest fraction of a group's tokens that may be padding."""
FREE_PADDING_TOKENS = 256
"""Number of padding tokens that is always allowed: they cost less than another forward pass."""


def groups_of_similar_length(windows: Sequence[Sequence[int]]) -> list[list[int]]:
    """Group the indices of windows of similar length, to be padded to the longest and computed together.

    Equal windows are in one group and count once.
    """

    def longest_first(index: int) -> tuple[int, tuple[int, ...]]:
        return -len(windows[index]), tuple(windows[index])

    groups: list[list[int]] = []
    rows = tokens = 0
    for index in sorted(range(len(windows)), key=longest_first):
        window = windows[index]
        if groups and tuple(windows[groups[-1][-1]]) == tuple(window):
            groups[-1].append(index)
            continue
        padded = (rows + 1) * len(windows[groups[-1][0]]) if groups else 0
        if not groups or not _may_share(padded, padded - tokens - len(window)):
            groups.append([])
            rows = tokens = 0
        groups[-1].append(index)
        rows, tokens = rows + 1, tokens + len(window)
    return groups


def _may_share(num_tokens: int, num_padding: int) -> bool:
    """Return True if a group of `num_tokens`, of which `num_padding` are padding, is worth computing."""
    max_padding = max(FREE_PADDING_TOKENS, MAX_PADDING_FRACTION * num_tokens)
    return num_tokens <= MAX_TOKENS and num_padding <= max_padding
