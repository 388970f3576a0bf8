"""Continuous batching: every text is what it is alone, whoever joins and leaves."""

import dataclasses
import random

import pytest
import torch

from tests.model_options import TOGETHER
from transformerlm.errors import NumericalError
from transformerlm.infer import batch as batch_module
from transformerlm.infer.continuous import ContinuousBatch
from transformerlm.infer.generate import DecodingSettings, steps
from transformerlm.infer.running_batch import RunningBatch, common
from transformerlm.infer.sampling import Sampling

SAMPLINGS = [Sampling(0.0), Sampling(1.1, 0.9, 40), Sampling(1.2, 0.95, 30, 0.05, 1.5), Sampling(0.9)]


class Recorder(ContinuousBatch):
    """A batch that keeps a copy of each text's logits."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.logits: dict[int, list[torch.Tensor]] = {}

    def _drawn(self, logits):
        for text, row in zip(self._writing, logits, strict=True):
            self.logits.setdefault(text.key, []).append(row.clone())
        return super()._drawn(logits)


def alone(model, prompt, settings):
    """Ids of a text as `steps` writes it by itself, and which is its end."""
    return [step[0][:2] for step in steps(model, [prompt], settings)]


def some_texts(num_texts, seed=0, longest=40, **settings):
    """Prompts, many of which begin alike, with settings that differ."""
    draw = random.Random(seed)
    beginnings = [[draw.randrange(61) for _ in range(longest)] for _ in range(3)]
    texts = []
    for index in range(num_texts):
        prompt = beginnings[index % 3][: draw.randrange(1, longest)]
        prompt += [draw.randrange(61) for _ in range(draw.randrange(4))]
        own = {
            "max_new_tokens": draw.randrange(1, 40),
            "sampling": SAMPLINGS[draw.randrange(4)],
            "end_ids": frozenset({draw.randrange(61)}),
            "seed": draw.randrange(3),
            "first_row": index,
            "log_probs": draw.random() < 0.5,
        }
        texts.append((prompt, DecodingSettings(**{**own, **settings})))
    return texts


def run(batch, texts, seed=0, removed=(), at_most=1):
    """Submit texts at random steps; return what each got. Those in `removed` go away after some tokens."""
    draw = random.Random(seed)
    waiting, found = list(enumerate(texts)), [[] for _ in texts]
    while waiting or batch:
        for _ in range(draw.randrange(4)):
            if waiting:
                index, (prompt, settings) = waiting.pop(0)
                batch.submit(index, prompt, settings, owner=index % 4)
        for index, token in (pair for step in batch.steps(at_most) for pair in step.items()):
            found[index].append(token[:2])
            if index in removed and len(found[index]) >= removed[index]:
                batch.remove(index)
    return found


@pytest.mark.parametrize("num_rows", [1, 2, 5, 16])
@pytest.mark.parametrize("kernels", [True, False], ids=["kernels", "torch"])
@pytest.mark.parametrize("shape", [{}, TOGETHER], ids=["plain", "all options"])
def test_every_text_is_what_it_is_alone(make_model, kernels, num_rows, shape, monkeypatch):
    monkeypatch.setattr(batch_module, "ROOM", 20)  # the cache grows on the way
    model = make_model(torch.float32 if kernels else torch.float64, context_length=48, **shape)
    texts = some_texts(24, num_rows, kernels=kernels)
    batch = ContinuousBatch(model, num_rows, kernels=kernels)
    found = run(batch, texts, num_rows)
    assert found == [alone(model, prompt, settings) for prompt, settings in texts]
    assert batch.num_shared > 0 or num_rows == 1  # one row beside it keeps nothing for three kinds of text
    assert (len(batch), batch.num_writing) == (0, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_with_kernels_the_logits_have_the_bits_of_the_text_alone(make_model, dtype):
    model = make_model(torch.float32, context_length=200).to(dtype)
    texts = some_texts(16, 11, longest=180, kernels=True)
    together = Recorder(model, 5, kernels=True)
    run(together, texts, 11)
    assert together.num_shared > 100
    for index, text in enumerate(texts):
        single = Recorder(model, 1, kernels=True)
        run(single, [text])
        assert torch.equal(torch.stack(together.logits[index]), torch.stack(single.logits[0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_long_prompts_are_read_in_parts_and_change_nothing(make_model, dtype):
    model = make_model(torch.float32, context_length=400).to(dtype)
    texts = some_texts(8, 3, longest=390, kernels=True, log_probs=True)
    assert run(ContinuousBatch(model, 3, kernels=True), texts) == [
        alone(model, prompt, settings) for prompt, settings in texts
    ]


def test_texts_far_past_the_context_too(make_model):
    model = make_model(torch.float32, context_length=12)
    texts = some_texts(10, 5, kernels=True, max_new_tokens=60)
    assert run(ContinuousBatch(model, 4, kernels=True), texts) == [
        alone(model, prompt, settings) for prompt, settings in texts
    ]


@pytest.mark.parametrize("kernels", [True, False], ids=["kernels", "torch"])
def test_texts_that_are_removed_change_nothing_for_the_others(make_model, kernels):
    model = make_model(torch.float32 if kernels else torch.float64, context_length=300)
    texts = some_texts(20, 7, longest=280, kernels=kernels)
    removed = {index: index % 5 for index in range(1, 20, 2)}
    found = run(ContinuousBatch(model, 6, kernels=kernels), texts, removed=removed)
    for index, (prompt, settings) in enumerate(texts):
        end = max(removed[index], 1) if index in removed else None
        assert found[index] == alone(model, prompt, settings)[:end]


@pytest.mark.parametrize("kernels", [True, False], ids=["kernels", "torch"])
@pytest.mark.parametrize("log_probs", [False, None], ids=["all ahead", "some ahead"])
def test_steps_ahead_write_the_same_texts(make_model, kernels, log_probs, monkeypatch):
    monkeypatch.setattr(batch_module, "ROOM", 20)
    model = make_model(torch.float32 if kernels else torch.float64, context_length=48)
    own = {} if log_probs is None else {"log_probs": log_probs, "sampling": Sampling(0.8, 0.9)}
    texts = some_texts(20, 7, kernels=kernels, **own)
    removed = {index: index % 9 for index in range(1, 20, 4)}
    num_reads, tolist = [], torch.Tensor.tolist
    monkeypatch.setattr(
        torch.Tensor, "tolist", lambda tensor: num_reads.append(tensor.dim()) or tolist(tensor)
    )
    found = run(ContinuousBatch(model, 4, kernels=kernels), texts, removed=removed, at_most=6)
    reads = num_reads.count(2)
    for index, (prompt, settings) in enumerate(texts):
        end = max(removed[index], 1) if index in removed else None
        assert found[index] == alone(model, prompt, settings)[:end]
    num_reads.clear()
    run(ContinuousBatch(model, 4, kernels=kernels), texts, removed=removed)
    assert reads < num_reads.count(2) / (1 if log_probs is None else 2)


def test_a_removed_text_frees_its_row_in_the_next_step(make_model):
    batch = ContinuousBatch(make_model(), 1)
    endless = DecodingSettings(max_new_tokens=10**9)
    batch.submit("a", [1], endless)
    batch.submit("b", [2], endless)
    batch.submit("c", [3], endless)
    assert set(batch.step()) == set(batch.step()) == {"a"}
    batch.remove("a")
    batch.remove("b")  # while it waits
    assert set(batch.step()) == {"c"}
    batch.remove("c")
    batch.remove("unknown")
    assert batch.step() == {}
    assert (len(batch), batch.num_writing) == (0, 0)


def test_a_text_may_be_removed_while_its_prompt_is_read(make_model):
    model = make_model(torch.float32, context_length=1000)
    prompt = [index % 61 for index in range(900)]
    settings = DecodingSettings(max_new_tokens=3, log_probs=True, kernels=True)
    batch = ContinuousBatch(model, 2, kernels=True)
    batch.submit("a", prompt, settings)
    for _ in range(5):
        assert batch.step() == {}
    batch.remove("a")
    batch.submit("b", prompt[:200], settings)
    found = []
    while batch:
        found += batch.step().values()
    assert [token[:2] for token in found] == alone(model, prompt[:200], settings)
    assert batch.num_shared == 199  # of what had been read for the other


def test_nobody_waits_while_a_long_prompt_is_read(make_model):
    batch = ContinuousBatch(make_model(torch.float32, context_length=2000), 4, kernels=True)
    endless = DecodingSettings(max_new_tokens=10**9)
    batch.submit("short", [1, 2], endless)
    batch.step()
    batch.submit("long", [index % 61 for index in range(1990)], endless)
    num_steps = 0
    while "long" not in (tokens := batch.step()):
        assert set(tokens) == {"short"}
        num_steps += 1
    assert num_steps == 1990 // 64


def test_a_shared_beginning_is_computed_once(make_model):
    model, seen = make_model(context_length=200), []
    model.embedding.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].numel()))
    beginning = [index * 7 % 61 for index in range(150)]
    batch = ContinuousBatch(model, 8)
    settings = DecodingSettings(max_new_tokens=2)
    for key in range(8):
        batch.submit(key, [*beginning, key], settings)
    while batch:
        batch.step()
    # One whole prompt; then one token of each other prompt beside the second token of the first text.
    assert sum(seen) == 151 + 7 + 8
    assert batch.num_shared == 7 * 150
    seen.clear()
    batch.submit("later", [*beginning, 3, 4], settings)  # all have ended, and their rows still hold them
    while batch:
        batch.step()
    assert sum(seen) <= 2 + 1


def test_the_beginning_of_a_text_that_has_ended_is_kept_for_as_long_as_there_are_free_rows(make_model):
    batch = ContinuousBatch(make_model(torch.float32, context_length=100), 4, kernels=True)
    settings = DecodingSettings(max_new_tokens=3)
    prompts = [[place * (key + 3) % 61 for place in range(50)] for key in range(4)]
    for key, prompt in enumerate([*prompts, *prompts]):
        before = batch.num_shared
        batch.submit(key, prompt, settings)
        while batch:
            batch.step()
        assert batch.num_shared - before >= (49 if key >= 4 else 0)


def test_memory_grows_with_the_number_of_texts(make_model):
    model = make_model(torch.float32)
    batch = ContinuousBatch(model, 50, kernels=True)
    rows = []
    texts = [
        ([1 + key], DecodingSettings(max_new_tokens=12, first_row=key, kernels=True)) for key in range(40)
    ]
    found = [[] for _ in texts]
    for key, (prompt, settings) in enumerate(texts):
        batch.submit(key, prompt, settings)
        for index, token in batch.step().items() if key % 4 == 3 else ():
            found[index].append(token[:2])
        rows.append(batch._batch.cache.memory[0].shape[1])
    while batch:
        for index, token in batch.step().items():
            found[index].append(token[:2])
    assert sorted(set(rows)) == [9, 17, 33, 51]
    assert found == [alone(model, prompt, settings) for prompt, settings in texts]


def test_rows_go_to_the_owner_that_has_the_fewest(make_model):
    batch = ContinuousBatch(make_model(), 4)
    settings = DecodingSettings(max_new_tokens=5)
    for key in range(12):
        batch.submit(("greedy", key), [1 + key], settings, owner="greedy")
    batch.step()
    for owner in ("b", "c"):
        batch.submit((owner, 0), [40], settings, owner=owner)
    order = []
    while batch:
        order += [key for key in batch.step() if key not in order]
    assert order.index(("b", 0)) < 7  # in the next four rows that become free
    assert order.index(("c", 0)) < 7


def test_a_finished_row_goes_to_who_waits(make_model):
    model, sizes = make_model(), []
    model.embedding.register_forward_hook(lambda module, inputs, output: sizes.append(inputs[0].numel()))
    batch = ContinuousBatch(model, 4)
    for key in range(20):
        batch.submit(key, [key], DecodingSettings(max_new_tokens=1 + key % 5))
    num_steps = 0
    while batch:
        batch.step()
        num_steps += 1
    num_tokens = sum(1 + key % 5 for key in range(20))
    assert sum(sizes) == num_tokens
    assert num_steps <= num_tokens / 4 + 3


def test_alternatives_are_the_likeliest_tokens(make_model):
    model = make_model()
    batch = ContinuousBatch(model, 3)
    settings = DecodingSettings(max_new_tokens=4, log_probs=True, num_alternatives=3, vocab_size=50)
    batch.submit("a", [1, 2], settings)
    batch.submit("b", [1, 2], dataclasses.replace(settings, num_alternatives=1, first_row=1))
    batch.submit("c", [1, 2], dataclasses.replace(settings, log_probs=False, first_row=2))
    tokens = batch.step()
    log_probs = torch.log_softmax(model(torch.tensor([[1, 2]]))[0, -1], -1)
    values, ids = log_probs[:50].topk(3)
    for key, number in (("a", 3), ("b", 1)):
        found = tokens[key]
        assert [token_id for token_id, _ in found.alternatives] == ids[:number].tolist()
        assert [value for _, value in found.alternatives] == pytest.approx(values[:number].tolist())
        assert found.log_prob == pytest.approx(log_probs[found.id].item())
    assert (tokens["c"].log_prob, tokens["c"].alternatives) == (None, ())


def test_what_cannot_be_used_is_refused_before_it_waits(make_model):
    batch = ContinuousBatch(make_model(), 2)
    for prompt, settings in ([], 1), ([61], 1), ([1.5], 1), ([1], 0):
        with pytest.raises(ValueError):
            batch.submit("a", prompt, DecodingSettings(max_new_tokens=settings))
    assert len(batch) == 0


def test_logits_that_are_no_numbers_are_an_error(make_model):
    model = make_model()
    with torch.no_grad():
        model.final_norm.weight.fill_(float("nan"))
    batch = ContinuousBatch(model, 2)
    batch.submit("a", [1], DecodingSettings(max_new_tokens=3))
    with pytest.raises(NumericalError):
        batch.step()


def test_the_common_beginning_of_two_lists():
    draw = random.Random(0)
    for _ in range(300):
        one, other = ([draw.randrange(2) for _ in range(draw.randrange(9))] for _ in range(2))
        expected = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
        assert common(one, other) == (min(len(one), len(other)) if expected is None else expected)


def test_a_prompt_begins_behind_the_longest_beginning_that_a_row_holds(make_model, monkeypatch):
    found, longest_beginning = [], RunningBatch._longest_beginning

    def checked(self, window):
        lengths = [common(self._held_by(row), window) for row in range(len(self._held))]
        expected = lengths.index(max(lengths)), min(max(lengths), len(window) - 1)
        found.append(longest_beginning(self, window))
        assert found[-1] == expected
        return found[-1]

    monkeypatch.setattr(RunningBatch, "_longest_beginning", checked)
    run(ContinuousBatch(make_model(torch.float32, context_length=48), 9, kernels=True), some_texts(60, 5))
    assert len({row for row, _ in found}) > 3
    assert len({length for _, length in found}) > 10
