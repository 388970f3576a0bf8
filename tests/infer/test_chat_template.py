"""Templates are rendered as transformers renders them, and can do nothing else."""

import datetime

import pytest

from tests.chat_templates import CHATML, TEMPLATES, said
from transformerlm.errors import ConfigError, DataError
from transformerlm.infer.chat_template import ChatTemplate, choose_template

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
SCHEMA = {
    "type": "function",
    "function": {"name": "add", "description": "Adds <two> & 'é'", "parameters": {}},
}
CALL = {"role": "assistant", "tool_calls": [{"function": {"name": "add", "arguments": {"a": "<1>"}}}]}
CONVERSATIONS = [
    said("Hi"),
    said(" Hi \n", system="Be <b>kind</b> & short. "),
    said("a", "b ", "c", system="s"),
    said("a", " <think>\nhm\n</think>\n\nb "),
    [*said("a"), {"role": "assistant", "content": "b", "reasoning": "since"}],
    [*said("a"), {"role": "assistant", "content": "b", "thinking": "since"}, *said("c")],
    [*said("a"), CALL, {"role": "tool", "content": "2"}],
    [{"role": "user", "content": [{"type": "text", "text": " part "}]}],
    [*said("a"), *said("b")],
]


def outcome(render):
    """Return a text, or None for a refusal."""
    try:
        return render()
    except Exception:
        return None


@pytest.mark.parametrize("name", TEMPLATES)
def test_texts_are_those_of_transformers(name):
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    num_same = 0
    for messages in CONVERSATIONS:
        for generation, goes_on in ((False, False), (True, False), (False, True)):
            for variables in ({}, {"enable_thinking": False, "date_string": "2 Feb"}):
                how = {
                    "tools": [SCHEMA],
                    "add_generation_prompt": generation,
                    "continue_final_message": goes_on,
                }

                def theirs(messages=messages, how=how, variables=variables):
                    source = {"chat_template": TEMPLATES[name], **TOKENS, **how, **variables}
                    return utils.render_jinja_template([messages], **source)[0][0]

                def ours(messages=messages, how=how, variables=variables):
                    return ChatTemplate(TEMPLATES[name], TOKENS).render(messages, **how, variables=variables)

                expected = outcome(theirs)
                assert outcome(ours) == expected
                num_same += expected is not None
    assert num_same > 10


def test_a_conversation_is_not_changed_by_being_rendered():
    messages = said("a", "b")
    ChatTemplate(CHATML).render(messages, continue_final_message=True)
    assert messages == said("a", "b")


def test_the_time_is_that_of_now():
    assert ChatTemplate("{{ strftime_now('%Y') }}").render(said("a")) == f"{datetime.datetime.now():%Y}"


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.append(1) }}",  # the sandbox keeps values as they are
        "{{ ''.__class__.__mro__ }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ namespace(__class__=1) }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ range(10**9) }}",
        "{% include '/etc/hostname' %}",
        "{{ messages[7].content }}",
        "{{ 1 / 0 }}",
        "{{ raise_exception('Only for\nuser') }}",
    ],
)
def test_what_a_template_may_not_do_is_an_error_of_one_line(source):
    with pytest.raises(ConfigError, match="chat template refuses") as caught:
        ChatTemplate(source).render(said("a"))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "source",
    [
        "{{ dict.__globals__ }}",
        "{{ raise_exception.__globals__ }}",
        "{{ messages[0]['content'].format.__globals__ }}",
        "{{ '{0.__class__}'.format(1) }}",
    ],
)
def test_names_that_lead_out_of_the_sandbox_are_undefined(source):
    assert ChatTemplate(source).render(said("a")) == ""


def test_what_is_no_template_is_told_with_its_line():
    with pytest.raises(
        DataError, match="chat_template: expected a template in Jinja's language, got line 2: "
    ):
        ChatTemplate("{% if x %}\n{% endfor %}")


@pytest.mark.parametrize(
    ("messages", "what"),
    [
        ([], "messages: expected a list"),
        (["Hi"], r"messages\[0\]: expected an object"),
        ([*said("a"), {"content": "b"}], r"messages\[1\]: expected an object"),
        ([{"role": "user", "content": object()}], "messages: expected JSON values"),
    ],
)
def test_messages_are_checked(messages, what):
    with pytest.raises(ConfigError, match=what):
        ChatTemplate(CHATML).render(messages)


def test_a_message_that_the_template_leaves_out_cannot_go_on():
    template = ChatTemplate("{{ messages[0].content }}")
    with pytest.raises(ConfigError, match="leaves out the last message"):
        template.render(said("a", "b"), continue_final_message=True)
    with pytest.raises(ConfigError, match="expected text in the last message"):
        ChatTemplate(CHATML).render([*said("a"), CALL], continue_final_message=True)


def test_one_of_several_templates_is_chosen_as_transformers_does():
    listed = [
        {"name": "default", "template": "d"},
        {"name": "tool_use", "template": "t"},
        {"name": "x", "template": "y"},
    ]
    as_table = {one["name"]: one["template"] for one in listed}
    for kept in (listed, as_table):
        config = {"chat_template": kept}
        assert choose_template(config) == "d"
        assert choose_template(config, with_tools=True) == "t"
        assert choose_template(config, "x", with_tools=True) == "y"
        with pytest.raises(ConfigError, match=r'\(default, tool_use, x\), got "z"'):
            choose_template(config, "z")
    assert choose_template({"chat_template": "d"}, with_tools=True) == "d"
    for config in ({}, {"chat_template": ""}):
        with pytest.raises(ConfigError, match=r"no chat template.*chat_template\.jinja"):
            choose_template(config)
    with pytest.raises(ConfigError, match="expected a template, or several by name"):
        choose_template({"chat_template": [7]})
