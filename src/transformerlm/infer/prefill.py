"""Prompts through the model by its own operations, into the cache: several at once, padded to one length.

Prompts of similar length are grouped, so that little of the work is padding. How PyTorch's products round may
depend on their number of rows: in a group, a prompt's results depend on the others in the last bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from transformerlm.nn import KVCache, TransformerLM

Windows = Sequence[Sequence[int]]
"""Ids of each text in the model's context."""


def fill_cache(model: TransformerLM, cache: KVCache, rows: Sequence[int], windows: Windows) -> Tensor:
    """Replace rows of a cache by those of `windows`; return the last hidden states [windows, d_model]."""
    last: dict[int, Tensor] = {}
    for group in groups_of_similar_length(windows):
        own_rows, own_windows = [rows[index] for index in group], [windows[index] for index in group]
        last.update(zip(group, _fill_group(model, cache, own_rows, own_windows), strict=True))
    return torch.stack([last[index] for index in range(len(windows))])


def _fill_group(model: TransformerLM, cache: KVCache, rows: Sequence[int], windows: Windows) -> Tensor:
    """`fill_cache` with windows of similar length."""
    unique, row_of = unique_windows(windows)
    device, dtype = model.final_norm.weight.device, cache.memory[0].dtype
    ids, lengths = padded(unique, device)
    own = KVCache.for_model(model.config, len(unique), device, dtype, ids.shape[1])
    hidden = model.hidden_states(ids, own)
    own.set_lengths(lengths)
    cache.put(rows, own, row_of)
    return last_states(hidden, lengths)[row_of]


def unique_windows(windows: Windows) -> tuple[list[tuple[int, ...]], list[int]]:
    """Return the different windows, and the index of each window among them.

    Equal windows, such as those of a prompt with several samples, are computed once.
    """
    index_of = {window: index for index, window in enumerate(dict.fromkeys(map(tuple, windows)))}
    return list(index_of), [index_of[tuple(window)] for window in windows]


def padded(windows: Windows, device: torch.device) -> tuple[Tensor, list[int]]:
    """Return windows padded on the right, LongTensor [texts, longest], and their lengths.

    The padding changes nothing: no token attends to a later one.
    """
    lengths = [len(window) for window in windows]
    longest = max(lengths)
    rows = [[*window, *[0] * (longest - len(window))] for window in windows]
    return torch.tensor(rows, dtype=torch.long, device=device), lengths


def last_states(hidden: Tensor, lengths: Sequence[int]) -> Tensor:
    """Return each row's hidden state at its last token: [rows, d_model]."""
    last = torch.tensor(lengths, dtype=torch.long, device=hidden.device) - 1
    return hidden[torch.arange(len(lengths), dtype=torch.long, device=hidden.device), last]


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
