"""transformerlm-infer --chat: conversations in, answers out; and a conversation at a terminal."""

import io
import json
import sys
from types import SimpleNamespace

import pytest

from tests.chat_templates import HEADERS, THINKING, chat_tokenizer, said
from tests.cli.test_interactive import Person
from tests.small_models import language_model, save_run
from transformerlm.cli import infer
from transformerlm.cli.chat_session import ChatSession
from transformerlm.config import GenerationConfig, InferConfig, InferSection, RuntimeConfig
from transformerlm.infer.chat import ChatFormat, Conversation
from transformerlm.language_model import LanguageModel
from transformerlm.logging import names

EXACT = RuntimeConfig(device="cpu", dtype="float32")
OWN = GenerationConfig(eos_token="</s>", max_new_tokens=8, temperature=0.7)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    several = [{"name": "default", "template": HEADERS}, {"name": "thinking", "template": THINKING}]
    own = chat_tokenizer(several)
    lm = language_model(own, vocab_size=own.vocab_size, context_length=256, generation=OWN)
    return save_run(lm, tmp_path_factory.mktemp("chat") / "run")


@pytest.fixture(scope="module")
def lm(run_dir):
    return LanguageModel.load(run_dir, EXACT)


def run(run_dir, capfd, *words):
    """Return the exit status, the lines of stdout and all of stderr."""
    own = (f"--infer.checkpoint={run_dir}", "--runtime.device=cpu", "--runtime.dtype=float32", "--chat")
    status = infer.main([*own, *words])
    out, err = capfd.readouterr()
    return status, out, err


def records(run_dir, capfd, *words):
    status, out, err = run(run_dir, capfd, *words)
    assert status == 0, err
    return [json.loads(line) for line in out.splitlines()]


def test_conversations_of_a_file_are_answered_line_by_line(run_dir, lm, tmp_path, capfd):
    lines = [
        said("Hi"),
        {"messages": said("a", "b", "c", system="s"), "id": 7},
        {"messages": said("a", "The fo"), "chat_template_kwargs": {"date_string": "2 Feb"}},
    ]
    path = tmp_path / "asked.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = records(run_dir, capfd, f"--infer.prompt_file={path}", "--generation.num_samples=2")
    assert [record["messages"] for record in found[::2]] == [
        lines[0],
        *(line["messages"] for line in lines[1:]),
    ]
    assert [record.get("id") for record in found] == [None, None, 7, 7, None, None]
    for row in range(4):
        messages = found[row]["messages"]
        assert found[row][names.OUTPUT] == lm.chat(messages, first_row=row)
    assert "Today: 2 Feb" in found[4][names.PROMPT]
    assert found[4][names.PROMPT].endswith("assistant<|/head|>\n\nThe fo")


def test_conversations_are_read_from_a_pipe(run_dir, lm, capfd, monkeypatch):
    asked = (json.dumps(said("Hi")) + "\n").encode()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(asked), isatty=lambda: False))
    (record,) = records(run_dir, capfd)
    assert record[names.OUTPUT] == lm.chat(said("Hi"))


def test_a_prompt_is_a_message(run_dir, lm, capfd):
    words = ("--prompt=Hi", "--infer.system_prompt=Be kind", "--infer.output_format=text")
    status, out, _ = run(run_dir, capfd, *words)
    assert (status, out) == (0, lm.chat(said("Hi", system="Be kind")) + "\n")
    found = records(run_dir, capfd, "--prompt=Hi", "--prompt=Ho")
    assert [record["messages"] for record in found] == [said("Hi"), said("Ho")]


def test_another_template_and_its_variables(run_dir, capfd):
    words = ("--prompt=Hi", "--infer.chat_template=thinking")
    (record,) = records(run_dir, capfd, *words)
    assert record[names.PROMPT] == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    (record,) = records(run_dir, capfd, *words, '--infer.chat_template_kwargs={"enable_thinking": false}')
    assert record[names.PROMPT].endswith("<think>\n\n</think>\n\n")


@pytest.mark.parametrize(
    ("words", "line", "message"),
    [
        ((), "{", "stdin:1: expected a list of messages, or an object"),
        ((), '{"prompt": "a"}', 'stdin:1: expected a list of messages, or an object with "messages"'),
        ((), "[]", "stdin:1: messages: expected a list"),
        ((), '[{"content": "a"}]', 'stdin:1: messages[0]: expected an object with a "role"'),
        (
            (),
            '{"messages": [{"role": "user", "content": "a"}], "tools": 7}',
            "stdin:1: tools: expected a list",
        ),
        ((), '[{"role": "user", "content": "\\ud800"}]', "stdin:1: expected Unicode text"),
        ((), '["Hi"]\n[{"role": "user", "content": "a"}]', "stdin:1: messages[0]"),
        (
            (),
            '[{"role": "user", "content": "a"}]\n[{"role": "assistant", "content": null}]',
            "conversation 2 of 2: messages: expected text in the last message",
        ),
        ((), "", "[infer].prompt_file: expected a conversation, got none"),
        (("--infer.chat_template=x",), '[{"role": "user", "content": "a"}]', '(default, thinking), got "x"'),
        (("--infer.chat_template_kwargs=[1]",), "", "chat_template_kwargs: expected a JSON object"),
    ],
)
def test_what_cannot_be_answered_is_told(run_dir, capfd, monkeypatch, words, line, message):
    given = SimpleNamespace(buffer=io.BytesIO(line.encode()), isatty=lambda: False)
    monkeypatch.setattr(sys, "stdin", given)
    status, out, err = run(run_dir, capfd, *words)
    assert (status, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1


def test_keys_of_the_chat_do_nothing_without_it_and_are_refused(run_dir, capfd):
    words = [f"--infer.checkpoint={run_dir}", "--prompt=Hi", "--infer.system_prompt=Be kind"]
    for mode in ([], ["--interactive"]):
        assert infer.main([*words, *mode]) == 2
        assert "[infer].system_prompt: expected --chat with it" in capfd.readouterr().err


def test_a_model_without_a_template_says_what_to_do(tmp_path, capfd):
    run_dir = save_run(language_model(), tmp_path / "run")
    status, out, err = run(run_dir, capfd, "--prompt=Hi")
    assert (status, out) == (2, "")
    assert "no chat template" in err
    assert "put its chat_template.jinja into its tokenizer's folder" in err
    (run_dir / "tokenizer" / "chat_template.jinja").write_text("{{ messages[0].content }}")
    assert run(run_dir, capfd, "--prompt=Hi")[0] == 0


def answer(session, line, capfd):
    session.answer(line)
    return capfd.readouterr()


def test_a_conversation_grows_goes_on_and_begins_again(lm, capfd):
    config = InferConfig(generation=OWN, infer=InferSection(system_prompt="Be kind"), runtime=EXACT)
    session = ChatSession(lm, ChatFormat(lm.tokenizer), config)

    def expected(messages, seed):
        return lm.chat(Conversation(messages).behind("Be kind").messages, seed=seed)

    out, err = answer(session, "Hi", capfd)
    first = expected(said("Hi"), 0)
    assert out.removesuffix("\n") == first.removesuffix("\n")
    assert "[seed 0: " in err
    answer(session, "a", capfd)
    assert session.messages == said("Hi", first, "a", expected(said("Hi", first, "a"), 1))
    answer(session, "/again", capfd)
    third = expected(said("Hi", first, "a"), 2)
    assert session.messages == said("Hi", first, "a", third)
    more = expected(said("Hi", first, "a", third), 3)
    out, _ = answer(session, "/more", capfd)
    assert out.removesuffix("\n") == (third + more).removesuffix("\n")
    assert session.messages == said("Hi", first, "a", third + more)
    answer(session, "/new", capfd)
    assert session.messages == []
    assert "expected a message before it" in answer(session, "/again", capfd).err
    assert "expected an answer before it" in answer(session, "/more", capfd).err
    answer(session, "/system Be brief", capfd)
    answer(session, "/seed 0", capfd)
    answer(session, "Hi", capfd)
    assert session.messages[1]["content"] == lm.chat(said("Hi", system="Be brief"))
    assert "/system TEXT" in answer(session, "/help", capfd).err
    answer(session, "/max_new_tokens 3", capfd)
    assert session.generation.max_new_tokens == 3


@pytest.mark.slow
def test_a_chat_in_a_terminal_with_ctrl_c_in_an_answer(run_dir):
    words = [f"--infer.checkpoint={run_dir}", "--runtime.device=cpu", "--runtime.dtype=float32"]
    person = Person(["--generation.stop_tokens=[]", *words], mode="--chat")
    try:
        person.reads("parameters, on cpu.*\n> ")
        person.types("/max_new_tokens 1000000\n")
        person.reads("\n> ")
        person.types("Hi\n")
        # Ctrl-C before the answer begins would discard the line.
        person.reads("Hi\n(?s:.)")
        person.types("\x03")
        person.reads(r"\[seed 0: \d+ tokens, \d+ a second, (stopped|eos|stop)\]\n> ")
        person.types("/max_new_tokens 2\nHo\n")
        person.reads(r"\[seed 1: \d tokens.*\]\n> ")
        person.types("\x04")
        status, _ = person.leaves()
        assert status == 0
    finally:
        person.ends()
