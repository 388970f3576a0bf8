import dataclasses

import pytest
import torch

from transformerlm.config import GenerationConfig
from transformerlm.errors import ConfigError
from transformerlm.infer import complete, completion_values, generate, start
from transformerlm.tokenizer import Tokenizer

END = "<|endoftext|>"
PROMPTS = ("Once upon a time", "", "né à Zürich ☃", "x" * 100)


@pytest.fixture
def tokenizer():
    """Bytes alone and one special token, so that characters beyond ASCII take several ids."""
    return Tokenizer({byte: bytes([byte]) for byte in range(256)}, [], [END])


@pytest.fixture
def model(make_model, tokenizer):
    return make_model(vocab_size=tokenizer.vocab_size)


def reciter(model, ids):
    """The model, its logits replaced so that the text written is `ids`, whatever the prompt."""
    step = -1

    def recite(module, inputs, output):
        nonlocal step
        step += 1
        return torch.full_like(output, -100.0).index_fill_(-1, torch.tensor(ids[step]), 0.0)

    model.head.register_forward_hook(recite)
    return model


def test_the_token_that_begins_texts_comes_once(tokenizer):
    def ids(prompt, **settings):
        (text,) = start(tokenizer, GenerationConfig(prompts=(prompt,), **settings))
        return text.prompt_ids

    bos = tokenizer.special_token_ids[END]
    assert ids("ab", bos_token=END) == ids(f"{END}ab", bos_token=END) == [bos, *b"ab"]
    assert ids("", bos_token=END) == ids(END, bos_token=END) == [bos]
    assert ids(f"{END}{END}ab", bos_token=END) == [bos, bos, *b"ab"]  # as it is written
    assert ids("ab") == [*b"ab"]


def test_completions_are_the_decoded_ids_of_generate(model, tokenizer):
    generation = GenerationConfig(prompts=PROMPTS, max_new_tokens=30, temperature=1.5, top_p=0.9, top_k=200)
    end = tokenizer.special_token_ids[END]
    prompt_ids = [tokenizer.encode(prompt) or [end] for prompt in PROMPTS]
    options = {"temperature": 1.5, "top_p": 0.9, "top_k": 200, "eos_token_id": end, "seed": 3}
    expected = generate(model, prompt_ids, max_new_tokens=30, **options)
    found = complete(model, tokenizer, generation, seed=3)
    assert [list(completion.token_ids) for completion in found] == expected
    for completion, prompt in zip(found, PROMPTS, strict=True):
        assert completion.prompt == prompt
        assert completion.text == tokenizer.decode(completion.token_ids)
        assert completion.latency_ms > 0


@pytest.mark.parametrize("batch_size", [1, 3])
def test_batches_make_no_difference(model, tokenizer, batch_size):
    generation = GenerationConfig(prompts=PROMPTS, max_new_tokens=20)
    whole, parts = (complete(model, tokenizer, generation, seed=1, batch_size=n) for n in (64, batch_size))
    assert [completion.token_ids for completion in parts] == [completion.token_ids for completion in whole]


def test_pieces_told_make_the_text_and_hold_whole_characters(model, tokenizer):
    text = "né à Zürich ☃ 😀, \ud7a3"
    ids = [*tokenizer.encode(text), tokenizer.special_token_ids[END]]
    pieces: list[tuple[int, str]] = []
    generation = GenerationConfig(prompts=("a",), max_new_tokens=100)
    (completion,) = complete(
        reciter(model, ids),
        tokenizer,
        generation,
        on_text=lambda index, piece: pieces.append((index, piece)),
    )
    assert completion.text == text
    assert completion.ended
    assert [piece for _, piece in pieces] == list(text)
    assert {index for index, _ in pieces} == {0}


def test_pieces_of_several_prompts_are_told_apart_even_where_bytes_are_no_text(model, tokenizer):
    told = [""] * len(PROMPTS)

    def tell(index: int, piece: str) -> None:
        assert piece
        told[index] += piece

    found = complete(
        model, tokenizer, GenerationConfig(prompts=PROMPTS, max_new_tokens=40, temperature=3.0), on_text=tell
    )
    assert told == [completion.text for completion in found]
    assert any("\ufffd" in text for text in told)


def test_a_character_that_is_cut_off_is_told_at_the_end(model, tokenizer):
    ids = tokenizer.encode("a☃")[:-1]
    told: list[str] = []
    generation = GenerationConfig(prompts=("a",), max_new_tokens=len(ids))
    (completion,) = complete(
        reciter(model, ids), tokenizer, generation, on_text=lambda index, piece: told.append(piece)
    )
    assert "".join(told) == completion.text == "a\ufffd"
    assert not completion.ended


def test_the_token_that_ends_a_text_can_be_left_out(model, tokenizer):
    end = tokenizer.special_token_ids[END]
    ids = [104, 105, end, 104]
    generation = GenerationConfig(prompts=("a",), max_new_tokens=4)
    (stopped,) = complete(reciter(model, ids), tokenizer, generation)
    assert (stopped.text, stopped.ended, stopped.eos_token_id) == ("hi", True, end)


def test_without_an_eos_token_nothing_ends_a_text(model, tokenizer):
    ids = [104, 105, tokenizer.special_token_ids[END], 104]
    generation = GenerationConfig(prompts=("a",), max_new_tokens=4, eos_token="")
    (going,) = complete(reciter(model, ids), tokenizer, generation)
    assert (going.text, going.ended, going.eos_token_id) == (f"hi{END}h", False, None)


def test_a_model_with_more_rows_than_the_tokenizer_has_ids_writes_text(make_model, tokenizer):
    model = make_model(vocab_size=tokenizer.vocab_size + 200)
    generation = GenerationConfig(prompts=PROMPTS, max_new_tokens=30, temperature=5.0)
    for completion in complete(model, tokenizer, generation):
        assert max(completion.token_ids) < tokenizer.vocab_size


def test_what_cannot_be_written_is_said_in_the_configs_words(model, tokenizer):
    with pytest.raises(ConfigError, match=r"^\[generation\]\.eos_token: .*<\|endoftext\|>.*, got \"<end>\"$"):
        complete(model, tokenizer, GenerationConfig(eos_token="<end>"))
    with pytest.raises(ConfigError, match=r"^\[generation\]\.prompts: expected some text"):
        complete(model, tokenizer, GenerationConfig(prompts=("a", ""), eos_token=""))


def test_the_record_of_a_completion_has_the_documented_keys(model, tokenizer):
    generation = GenerationConfig(prompts=("a",), max_new_tokens=3, temperature=0.0, top_p=0.5)
    (completion,) = complete(model, tokenizer, generation)
    assert completion_values(completion, generation) == {
        "text.prompt": "a",
        "text.output": completion.text,
        "metrics.latency_ms": completion.latency_ms,
        "params.temperature": 0.0,
        "params.p": 0.5,
        "params.eos_token_id": 256,
    }
    generation = GenerationConfig(prompts=("a",), max_new_tokens=3, eos_token="")
    (completion,) = complete(model, tokenizer, generation)
    assert completion_values(completion, generation)["params.eos_token_id"] == -1


def recited(model, tokenizer, text, **settings):
    """The completion of a model that writes `text`, and its pieces."""
    pieces: list[str] = []
    ids = [*tokenizer.encode(text), tokenizer.special_token_ids[END]]
    generation = GenerationConfig(**{"prompts": ("a",), "max_new_tokens": len(ids), **settings})
    (completion,) = complete(
        reciter(model, ids), tokenizer, generation, on_text=lambda index, piece: pieces.append(piece)
    )
    return completion, pieces


@pytest.mark.parametrize(
    ("text", "stop", "kept", "num_ids", "reason"),
    [
        ("one\n\ntwo", ("\n\n",), "one", 5, "stop"),
        ("né ☃ à Zürich", ("☃",), "né ", 7, "stop"),
        ("né ☃ à Zürich", ("Zurich", "☃ à Zü!"), "né ☃ à Zürich", 18, "eos"),
        ("abcd", ("cd", "bcd"), "a", 4, "stop"),
        ("abcde", ("cd", "bcde"), "ab", 4, "stop"),
        ("abc", ("abc",), "", 3, "stop"),
        ("ab", ("abc",), "ab", 2, "eos"),
    ],
)
def test_a_stop_string_ends_a_text_and_is_no_part_of_it(model, tokenizer, text, stop, kept, num_ids, reason):
    completion, pieces = recited(model, tokenizer, text, stop=stop)
    assert (completion.text, completion.finish_reason) == (kept, reason)
    assert "".join(pieces) == kept
    assert list(completion.token_ids) == tokenizer.encode(text)[:num_ids]
    assert completion.ended == (reason == "eos")


def test_what_was_held_back_is_told_where_the_text_ends_otherwise(model, tokenizer):
    completion, pieces = recited(model, tokenizer, "the EN", stop=("END",), max_new_tokens=6)
    assert (completion.text, completion.finish_reason) == ("the EN", "length")
    assert pieces == ["t", "h", "e", " ", "EN"]


def test_a_stop_string_may_be_of_a_character_that_was_cut_off(model, tokenizer):
    ids = tokenizer.encode("a☃")[:-1]
    generation = GenerationConfig(prompts=("a",), max_new_tokens=len(ids), stop=("\ufffd",))
    (completion,) = complete(reciter(model, ids), tokenizer, generation)
    assert (completion.text, completion.finish_reason) == ("a", "stop")


def test_special_tokens_can_be_left_out_of_the_text(make_model):
    tokenizer = Tokenizer({byte: bytes([byte]) for byte in range(256)}, [], ["<|x|>"])
    ids = [*b"a\xe2\x98", 256, *b"\x83b", 256]
    generation = GenerationConfig(prompts=("a",), max_new_tokens=len(ids), eos_token="", stop=("|x",))
    (completion,) = complete(reciter(make_model(vocab_size=257), ids), tokenizer, generation)
    assert completion.text == "a\ufffd<"
    generation = dataclasses.replace(generation, skip_special_tokens=True)
    pieces: list[str] = []
    (completion,) = complete(
        reciter(make_model(vocab_size=257), ids),
        tokenizer,
        generation,
        on_text=lambda index, piece: pieces.append(piece),
    )
    assert (completion.text, completion.finish_reason) == ("a☃b", "length")
    assert (completion.token_ids, pieces) == (tuple(ids), ["a", "☃", "b"])


def test_the_prompt_may_hold_the_stop_string(model, tokenizer):
    completion, _ = recited(model, tokenizer, "b", prompts=("a\n",), stop=("\nb", "\n"))
    assert (completion.text, completion.finish_reason) == ("b", "eos")


def test_stop_strings_end_each_text_of_a_batch_as_if_it_were_alone(model, tokenizer):
    prompts = ("a", *PROMPTS[:1], *PROMPTS[2:])
    plain = GenerationConfig(prompts=prompts, max_new_tokens=60, temperature=2.0, eos_token="")
    whole = [completion.text for completion in complete(model, tokenizer, plain)]
    # Most bytes are no characters by themselves, and would end every text at once.
    stops = tuple([character for character in whole[0] if character.isascii()][3:6])
    stopped = GenerationConfig(prompts=prompts, max_new_tokens=60, temperature=2.0, eos_token="", stop=stops)
    found = complete(model, tokenizer, stopped)
    ends = [min((text.index(stop) for stop in stops if stop in text), default=None) for text in whole]
    assert [completion.text for completion in found] == [
        text[:end] for text, end in zip(whole, ends, strict=True)
    ]
    assert [completion.finish_reason for completion in found] == [
        "length" if end is None else "stop" for end in ends
    ]
    assert len(set(ends)) > 2


def test_stop_tokens_end_a_text_too(make_model):
    specials = [END, "<|user|>", "<|system|>"]
    tokenizer = Tokenizer({byte: bytes([byte]) for byte in range(256)}, [], specials)
    ids = [104, 105, tokenizer.special_token_ids["<|user|>"], 104]
    for stop_tokens, text, reason in [
        (("<|system|>", "<|user|>"), "hi", "stop"),
        (("<|system|>",), "hi<|user|>h", "length"),
    ]:
        model = reciter(make_model(vocab_size=tokenizer.vocab_size), ids)
        generation = GenerationConfig(prompts=("a",), max_new_tokens=4, stop_tokens=stop_tokens)
        (completion,) = complete(model, tokenizer, generation)
        assert (completion.text, completion.finish_reason) == (text, reason)
    with pytest.raises(
        ConfigError, match=r"^\[generation\]\.stop_tokens: expected a special .* got \"user\"$"
    ):
        complete(model, tokenizer, GenerationConfig(prompts=("a",), stop_tokens=("user",)))


def test_samples_of_a_prompt_are_the_texts_of_their_rows(model, tokenizer):
    settings = {"max_new_tokens": 20, "temperature": 1.5}
    generation = GenerationConfig(prompts=PROMPTS, num_samples=3, **settings)
    found = complete(model, tokenizer, generation, seed=4, batch_size=5)
    assert [(c.prompt, c.sample, c.row) for c in found] == [
        (prompt, sample, 3 * index + sample) for index, prompt in enumerate(PROMPTS) for sample in range(3)
    ]
    assert len({completion.token_ids for completion in found[:3]}) == 3
    for row in (0, 4, 11):
        alone = GenerationConfig(prompts=PROMPTS[row // 3 : row // 3 + 1], **settings)
        (again,) = complete(model, tokenizer, alone, seed=4, first_row=row)
        assert again.token_ids == found[row].token_ids


def test_log_probabilities_belong_to_the_ids_of_the_text(model, tokenizer):
    generation = GenerationConfig(prompts=PROMPTS, max_new_tokens=30, temperature=2.0, log_probs=True)
    for completion in complete(model, tokenizer, generation):
        start = [*tokenizer.encode(completion.prompt)] or [completion.eos_token_id]
        if len(start) + len(completion.token_ids) > model.config.context_length:
            assert len(completion.log_probs) == len(completion.token_ids)
            continue
        logits = model(torch.tensor([[*start, *completion.token_ids]]))[0, len(start) - 1 : -1]
        expected = torch.log_softmax(logits, -1)[range(len(logits)), list(completion.token_ids)]
        torch.testing.assert_close(torch.tensor(completion.log_probs, dtype=torch.float64), expected)
    (unasked,) = complete(model, tokenizer, GenerationConfig(prompts=("a",), max_new_tokens=1))
    assert unasked.log_probs is None
    end = tokenizer.special_token_ids[END]
    (empty,) = complete(reciter(model, [end]), tokenizer, GenerationConfig(prompts=("a",), log_probs=True))
    assert (empty.token_ids, empty.log_probs, empty.finish_reason) == ((), (), "eos")
