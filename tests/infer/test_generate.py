import itertools
import math
import sys

import numpy as np
import pytest
import torch

from tests.model_options import OPTIONS, TOGETHER
from tests.peak_memory import peak_memory, reset_peak_memory
from transformerlm.errors import NumericalError
from transformerlm.infer.batch import window_start
from transformerlm.infer.generate import DecodingSettings, generate, steps, stream
from transformerlm.infer.sampling import Sampling, sample_rows
from transformerlm.nn.fused import uses_kernels

GREEDY = {"temperature": 0.0}
WARM = {"temperature": 1.1, "top_p": 0.9, "top_k": 40, "seed": 5}
ALL = {"temperature": 1.2, "top_p": 0.95, "top_k": 30, "min_p": 0.05, "repetition_penalty": 1.5, "seed": 7}
PROMPTS = [[7, 3, 9], [1], [5, 60, 2, 2, 8, 11, 30, 4], list(range(40)), [17, 0, 4], list(range(16))]
"""Lengths 3, 1, 8, 40 (more than the context), 3, 16 (the context exactly)."""


def slow_generate(
    model, prompt, max_new_tokens, row=0, *, seed=0, changed=lambda logits, ids: logits, **settings
):
    """The definition: for every token the whole visible text through the model, one text at a time.

    `changed` returns the logits to draw from, given the model's and all ids of the text.
    """
    ids = list(prompt)
    stream = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, row])))
    for number in stream.random(max_new_tokens, np.float32):
        visible = ids[window_start(len(ids), model.config.context_length) :]
        with torch.no_grad():
            logits = changed(model(torch.tensor([visible]))[0, -1], ids)
        seen = torch.tensor([token in ids for token in range(len(logits))])
        ids.append(sample_rows(logits, Sampling(**settings), torch.tensor(number), seen).item())
    return ids[len(prompt) :]


def run_steps(model, prompts, is_finished=lambda prompt: False, **options):
    return steps(model, prompts, DecodingSettings.from_options(**options), is_finished)


@pytest.mark.parametrize(
    ("context_length", "options"),
    [(16, GREEDY), (16, ALL), (5, WARM), (2, WARM), (1, WARM)],
    ids=["greedy", "all settings", "context 5", "context 2", "context 1"],
)
def test_a_batch_of_any_lengths_equals_the_definition_far_past_the_context(
    make_model, context_length, options
):
    model = make_model(context_length=context_length)
    how_many = 30 if context_length > 5 else 12
    expected = [slow_generate(model, prompt, how_many, row, **options) for row, prompt in enumerate(PROMPTS)]
    for use_cache in (True, False):
        found = generate(model, PROMPTS, max_new_tokens=how_many, use_cache=use_cache, **options)
        assert found == expected
    for row in (1, 3):
        alone = generate(model, PROMPTS[row], max_new_tokens=how_many, first_row=row, **options)
        assert alone == expected[row]


@pytest.mark.parametrize(
    "changes",
    [
        {"qk_norm": True},
        {"num_kv_heads": 1},
        {"num_kv_heads": 4},
        {"tie_embeddings": True, "num_layers": 1},
        *OPTIONS.values(),
        TOGETHER,
    ],
)
def test_every_kind_of_model_generates_the_same_with_and_without_cache(make_model, changes):
    model = make_model(**changes)
    cached, uncached = (
        generate(model, PROMPTS, max_new_tokens=30, use_cache=use_cache, **WARM)
        for use_cache in (True, False)
    )
    assert cached == uncached


def test_texts_end_at_the_eos_token_and_the_others_go_on_unchanged(make_model):
    model = make_model()
    whole = generate(model, PROMPTS, max_new_tokens=60, **WARM)
    eos = whole[0][20]
    expected = [list(itertools.takewhile(lambda token: token != eos, text)) for text in whole]
    assert len({len(text) for text in expected}) > 3
    for use_cache in (True, False):
        found = generate(model, PROMPTS, max_new_tokens=60, eos_token_id=eos, use_cache=use_cache, **WARM)
        assert found == expected


def test_steps_tell_which_texts_go_on(make_model):
    model = make_model()
    whole = generate(model, PROMPTS, max_new_tokens=30, **WARM)
    eos = whole[2][3]
    rows: dict[int, list[int]] = {row: [] for row in range(len(PROMPTS))}
    for step in run_steps(model, PROMPTS, max_new_tokens=30, eos_token_id=eos, **WARM):
        for row, token in step.items():
            assert eos not in rows[row]
            rows[row].append(token.id)
    for row, text in rows.items():
        end = whole[row].index(eos) + 1 if eos in whole[row] else 30
        assert text == whole[row][:end]


def test_all_texts_may_end_at_once(make_model):
    model = make_model()
    first = generate(model, [3, 4], max_new_tokens=1, **GREEDY)[0]
    assert generate(model, [[3, 4], [3, 4]], max_new_tokens=9, eos_token_id=first, **GREEDY) == [[], []]


def test_a_text_depends_on_seed_and_row_and_not_on_its_batch(make_model):
    model = make_model()
    batch = generate(model, PROMPTS, max_new_tokens=25, **WARM)
    for row, prompt in enumerate(PROMPTS):
        assert generate(model, prompt, max_new_tokens=25, first_row=row, **WARM) == batch[row]
    assert generate(model, PROMPTS[2:4], max_new_tokens=25, first_row=2, **WARM) == batch[2:4]
    assert generate(model, PROMPTS, max_new_tokens=25, **{**WARM, "seed": 6}) != batch
    same = generate(model, [PROMPTS[0]] * 3, max_new_tokens=25, **WARM)
    assert same[0] == batch[0]
    assert same[0] != same[1] != same[2]


def test_more_tokens_begin_with_fewer(make_model):
    model = make_model()
    long = generate(model, PROMPTS, max_new_tokens=25, **WARM)
    assert [text[:10] for text in long] == generate(model, PROMPTS, max_new_tokens=10, **WARM)
    assert generate(model, PROMPTS, max_new_tokens=0) == [[]] * len(PROMPTS)


def test_continuing_a_text_is_the_same_as_not_having_stopped(make_model):
    model = make_model()
    whole = generate(model, PROMPTS[3], max_new_tokens=40, **GREEDY)
    half = generate(model, PROMPTS[3], max_new_tokens=13, **GREEDY)
    assert half + generate(model, PROMPTS[3] + half, max_new_tokens=27, **GREEDY) == whole


@pytest.mark.parametrize("convert", [torch.tensor, lambda ids: np.array(ids, np.uint16), tuple])
def test_prompts_may_be_arrays_and_tensors(make_model, convert):
    model = make_model()
    expected = generate(model, PROMPTS[:3], max_new_tokens=20, **WARM)
    assert generate(model, [convert(ids) for ids in PROMPTS[:3]], max_new_tokens=20, **WARM) == expected
    assert generate(model, convert(PROMPTS[0]), max_new_tokens=20, **WARM) == expected[0]
    assert list(stream(model, convert(PROMPTS[0]), max_new_tokens=20, **WARM)) == expected[0]


def test_stream_yields_what_generate_returns_as_it_comes(make_model):
    model = make_model()
    whole = generate(model, [5, 6], max_new_tokens=40, **WARM)
    assert list(stream(model, [5, 6], max_new_tokens=40, **WARM)) == whole
    eos = whole[11]
    stopped = whole[: whole.index(eos)]
    assert list(stream(model, [5, 6], max_new_tokens=40, eos_token_id=eos, **WARM)) == stopped


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize("kernels", [False, True])
def test_a_text_that_may_become_long_takes_no_more_memory_than_its_beginning(make_model, kernels):
    model = make_model(torch.float32, context_length=2**15, d_model=256)  # 134 MB of keys and values
    expected = generate(model, [5, 6], max_new_tokens=100, kernels=kernels, **WARM)
    reset_peak_memory()
    before = peak_memory()
    running = stream(model, [5, 6], max_new_tokens=10**9, kernels=kernels, **WARM)
    assert [next(running) for _ in range(100)] == expected
    assert peak_memory() - before < 30 * 2**20


def test_stream_waits_for_no_token_but_the_next(make_model):
    model, calls = make_model(), []
    model.final_norm.register_forward_hook(lambda *_: calls.append(1))
    running = stream(model, [5, 6], max_new_tokens=40)
    for count in range(1, 4):
        next(running)
        assert len(calls) == count


def test_each_token_passes_the_model_once(make_model):
    model, seen = make_model(context_length=64), []
    model.embedding.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].numel()))
    generate(model, list(range(20)), max_new_tokens=30, **GREEDY)
    assert seen == [20] + [1] * 29


def test_texts_that_have_ended_are_not_computed(make_model):
    model = make_model(context_length=64)
    whole = generate(model, PROMPTS, max_new_tokens=20, **WARM)
    eos, sizes = whole[1][0], []
    model.embedding.register_forward_hook(lambda module, inputs, output: sizes.append(inputs[0].shape[0]))
    texts = generate(model, PROMPTS, max_new_tokens=20, eos_token_id=eos, **WARM)
    going = [sum(len(text) >= step for text in texts) for step in range(20)]
    assert sizes == [size for size in going if size]
    assert min(sizes) < len(PROMPTS)


def test_rows_without_an_id_are_never_chosen(make_model):
    model = make_model()
    limited = generate(model, PROMPTS, max_new_tokens=40, vocab_size=50, **WARM)
    assert max(max(text) for text in limited) == 49
    assert max(max(text) for text in generate(model, PROMPTS, max_new_tokens=40, **WARM)) > 49


def test_the_model_is_left_as_it_was(make_model):
    model = make_model()
    model.train()
    modes = []
    model.embedding.register_forward_hook(lambda module, *_: modes.append(module.training))
    running = stream(model, [1, 2], max_new_tokens=30)
    next(running)
    assert not torch.is_inference_mode_enabled()
    running.close()
    assert modes == [False]
    assert all(module.training for module in model.modules())
    model(torch.tensor([[1, 2, 3]])).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    model.eval()
    generate(model, [1], max_new_tokens=1)
    assert not model.training


def test_a_model_in_lower_precision_generates_under_autocast(make_model):
    model = make_model(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        texts = generate(model, PROMPTS, max_new_tokens=20, **GREEDY)
        again = generate(model, PROMPTS, max_new_tokens=20, use_cache=False, **GREEDY)
    agreeing = sum(
        a == b for one, two in zip(texts, again, strict=True) for a, b in zip(one, two, strict=True)
    )
    assert agreeing > 0.5 * 20 * len(PROMPTS)
    model.bfloat16()
    assert len(generate(model, [1, 2], max_new_tokens=20, **WARM)) == 20


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ([], {}, "prompt 0: expected at least one token"),
        ([[1], []], {}, "prompt 1: expected at least one token"),
        ([3, 61], {}, "prompt 0: expected ids from 0 to 60, got 3 to 61"),
        ([-1], {}, "prompt 0: expected ids from 0 to 60"),
        (None, {}, "prompt_ids: expected token ids, got None"),
        (3, {}, "prompt_ids: expected token ids, got 3"),
        ("ab", {}, 'prompt 0: expected token ids, got "ab"'),
        ([[1], [2.5]], {}, "prompt 1: expected token ids"),
        ([1], {"temperature": -1.0}, "temperature: expected"),
        ([1], {"top_p": 0.0}, "top_p: expected"),
        ([1], {"top_k": 0}, "top_k: expected"),
        ([1], {"min_p": 1.5}, "min_p: expected"),
        ([1], {"repetition_penalty": 0.0}, "repetition_penalty: expected"),
        ([1], {"max_new_tokens": -1}, "max_new_tokens"),
        ([1], {"seed": -1}, "seed"),
    ],
)
def test_what_cannot_be_used_is_said_before_anything_runs(make_model, prompts, options, message):
    with pytest.raises(ValueError, match=message):
        generate(make_model(), prompts, **{"max_new_tokens": 3, **options})
    if isinstance(prompts, list) and prompts and isinstance(prompts[0], int):
        with pytest.raises(ValueError, match=message):
            stream(make_model(), prompts, **{"max_new_tokens": 3, **options}).__next__()


@pytest.mark.parametrize("options", [GREEDY, WARM], ids=["greedy", "sampled"])
def test_a_broken_model_is_an_error_and_not_a_text(make_model, options):
    model = make_model()
    with torch.no_grad():
        model.head.weight[3, 3] = math.nan
    with pytest.raises(NumericalError, match="NaN"):
        generate(model, [1, 2], max_new_tokens=5, **options)


def test_a_penalty_changes_the_text(make_model):
    model = make_model()
    changed, plain = (
        generate(model, PROMPTS, max_new_tokens=10, **{**ALL, "repetition_penalty": penalty})
        for penalty in (1.5, 1.0)
    )
    assert changed != plain


def test_a_penalty_follows_its_text_when_others_leave_the_batch(make_model):
    model = make_model()
    whole = generate(model, PROMPTS, max_new_tokens=45, **ALL)
    stops = {whole[1][2], whole[4][9]}
    expected = [list(itertools.takewhile(lambda token: token not in stops, text)) for text in whole]
    assert len({len(text) for text in expected}) > 3
    assert generate(model, PROMPTS, max_new_tokens=45, stop_token_ids=stops, **ALL) == expected
    eos, *others = stops
    assert (
        generate(model, PROMPTS, max_new_tokens=45, eos_token_id=eos, stop_token_ids=others, **ALL)
        == expected
    )
    streamed = list(stream(model, PROMPTS[0], max_new_tokens=45, stop_token_ids=stops, **ALL))
    assert streamed == expected[0]


def test_a_penalty_minds_ids_of_a_prompt_that_can_not_be_chosen(make_model):
    model = make_model()
    prompt = [59, 60, 3]
    limited = generate(model, prompt, max_new_tokens=30, vocab_size=50, **ALL)
    assert max(limited) < 50
    assert limited == generate(model, [prompt, [1]], max_new_tokens=30, vocab_size=50, **ALL)[0]


def test_the_greatest_penalty_repeats_nothing_while_there_is_something_else(make_model):
    model = make_model()
    options = {"temperature": 0.0, "repetition_penalty": 1e6}
    ids = generate(model, [5, 6], max_new_tokens=20, **options)
    plain = generate(model, [5, 6], max_new_tokens=20, **GREEDY)
    assert len({5, 6, *ids}) > len({5, 6, *plain})


@pytest.mark.parametrize("use_cache", [True, False], ids=["cached", "uncached"])
def test_log_probabilities_are_the_models_own_before_any_setting(make_model, use_cache):
    model = make_model(context_length=64)
    prompts = [ids for ids in PROMPTS if len(ids) < 20]
    texts = [list(ids) for ids in prompts]
    found: list[list[float]] = [[] for _ in prompts]
    options = {"vocab_size": 55, "eos_token_id": 4, "use_cache": use_cache, **ALL}
    for step in run_steps(model, prompts, max_new_tokens=40, log_probs=True, **options):
        for row, token in step.items():
            texts[row].append(token.id)
            found[row].append(token.log_prob)
    assert [text[len(ids) :] for text, ids in zip(texts, prompts, strict=True)] != [[]] * len(prompts)
    for ids, prompt, log_probs in zip(texts, prompts, found, strict=True):
        with torch.no_grad():
            expected = torch.log_softmax(model(torch.tensor([ids]))[0], -1)
        start = len(prompt) - 1
        expected = expected[start:-1].gather(-1, torch.tensor(ids[start + 1 :]).unsqueeze(-1)).squeeze(-1)
        torch.testing.assert_close(torch.tensor(log_probs, dtype=torch.float64), expected)


def test_log_probabilities_are_computed_only_on_request_and_change_nothing(make_model):
    model = make_model()
    plain = list(run_steps(model, PROMPTS, max_new_tokens=20, **ALL))
    with_numbers = list(run_steps(model, PROMPTS, max_new_tokens=20, log_probs=True, **ALL))
    assert all(token.log_prob is None for step in plain for token in step.values())
    assert [{row: token.id for row, token in step.items()} for step in plain] == [
        {row: token.id for row, token in step.items()} for step in with_numbers
    ]


def test_a_text_that_its_caller_ends_is_not_computed_further(make_model):
    model, sizes = make_model(context_length=64), []
    whole = generate(model, PROMPTS, max_new_tokens=12, **WARM)
    model.embedding.register_forward_hook(lambda module, inputs, output: sizes.append(inputs[0].shape[0]))
    rows: dict[int, list[int]] = {row: [] for row in range(len(PROMPTS))}
    limits = [3, 12, 1, 7, 12, 5]
    running = run_steps(
        model, PROMPTS, max_new_tokens=12, is_finished=lambda row: len(rows[row]) == limits[row], **WARM
    )
    for step in running:
        for row, token in step.items():
            rows[row].append(token.id)
    assert list(rows.values()) == [text[:limit] for text, limit in zip(whole, limits, strict=True)]
    assert sizes == [sum(limit > step for limit in limits) for step in range(12)]


SIXTY_FOUR = [[(7 * at + 3 * place) % 61 for place in range(1 + at)] for at in range(64)]


def test_sixty_four_prompts_of_very_different_lengths_are_each_as_if_alone(make_model):
    model = make_model(context_length=96)
    mixed = SIXTY_FOUR[::3] + SIXTY_FOUR[1::3] + SIXTY_FOUR[2::3]
    together = generate(model, mixed, max_new_tokens=40, **GREEDY)
    for row in range(0, 64, 5):
        assert together[row] == generate(model, mixed[row], max_new_tokens=40, **GREEDY)


@pytest.mark.parametrize("kernels", [False, True])
def test_log_probabilities_in_float32_are_those_in_float64(make_model, kernels):
    how = {"max_new_tokens": 20, "log_probs": True, **GREEDY}
    model = make_model(torch.float32, context_length=96)
    found = list(run_steps(model, SIXTY_FOUR, kernels=kernels, **how))
    right = list(run_steps(model.double(), SIXTY_FOUR, **how))
    for step, exact in zip(found, right, strict=True):
        for prompt, token in step.items():
            assert token.id == exact[prompt].id  # no two tokens are as good as equal here
            assert token.log_prob == pytest.approx(exact[prompt].log_prob, abs=1e-4)


@pytest.mark.parametrize(
    "changes", [{}, {"tie_embeddings": True}, {"qk_norm": True}, {"num_kv_heads": 4}, TOGETHER]
)
def test_kernels_write_the_same_texts_far_past_the_context(make_model, changes):
    model = make_model(torch.float32, context_length=12, **changes)
    how = {"max_new_tokens": 60, "eos_token_id": 3, "top_p": 0.9, "top_k": 50, **WARM}
    assert generate(model, PROMPTS, kernels=True, **how) == generate(model.double(), PROMPTS, **how)


def test_a_prompt_that_comes_several_times_passes_the_model_once(make_model):
    model, seen = make_model(context_length=64), []
    model.embedding.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].numel()))
    prompts = [[5, 6, 7], [8, 9], [5, 6, 7], [5, 6, 7]]
    texts = generate(model, prompts, max_new_tokens=2, **WARM)
    assert seen == [6, 4]  # two rows of three; then a token of each of the four
    assert texts == generate(model, prompts, max_new_tokens=2, use_cache=False, **WARM)


def test_a_call_with_kernels_leaves_the_model_as_it_is(make_model):
    model = make_model(torch.float32)
    ids = torch.tensor([[5, 6, 7]])
    before = model(ids)
    for _ in stream(model, [5, 6], max_new_tokens=3, kernels=True):
        assert torch.equal(model(ids), before)
    assert not uses_kernels(model)
