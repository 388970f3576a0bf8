"""Chat templates in the forms that models have them, conversations for them, and a tokenizer for both."""

from tests.small_models import tokenizer
from transformerlm.tokenizer import Tokenizer

TOKENS = (
    "<s>",
    "</s>",
    "<|im_start|>",
    "<|im_end|>",
    "<|eot|>",
    "<|head|>",
    "<|/head|>",
    "[INST]",
    "[/INST]",
)

CHATML = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
HEADERS = """\
{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = "" %}
{%- endif %}
{%- if not date_string is defined %}{% set date_string = "1 Jan" %}{% endif %}
{{- "<|head|>system<|/head|>\\n\\nToday: " + date_string + "\\n" + system + "<|eot|>" }}
{%- for message in messages %}
    {{- '<|head|>' + message['role'] + '<|/head|>\\n\\n' + message['content'] | trim + '<|eot|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|head|>assistant<|/head|>\\n\\n' }}{%- endif %}
"""
INSTRUCTIONS = """\
{{ bos_token }}{% for message in messages %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
{% endif %}
{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}
{%- else %}
{%- generation %}{{ message['content'] + eos_token }}{% endgeneration %}
{% endif %}
{% endfor %}
"""
THINKING = """\
{%- set ns = namespace(last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if message.role == 'user' %}{% set ns.last = index %}{% break %}{% endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == 'assistant' and loop.index0 > ns.last and message.reasoning_content is defined %}
        {%- set thoughts = message.reasoning_content.strip('\\n') %}
        {{- '<|im_start|>assistant\\n<think>\\n' + thoughts + '\\n</think>\\n\\n' }}
        {{- message.content.split('</think>')[-1].lstrip('\\n') + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' ~ message.role ~ '\\n' ~ message.content ~ '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""
TOOLS = """\
{%- for tool in tools or [] %}{{ tool | tojson(indent=1) }}{{ '\\n' }}{% endfor -%}
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% if message.tool_calls is defined %}{{ message.tool_calls[0].function.arguments | tojson }}{% else %}
{% for part in ([{"text": message.content}] if message.content is string else message.content) -%}
{{ part.text | trim }}
{%- endfor %}{% endif %}<|im_end|>{{ strftime_now("") }}
{% endfor %}
"""
TEMPLATES = {
    "chatml": CHATML,
    "headers": HEADERS,
    "instructions": INSTRUCTIONS,
    "thinking": THINKING,
    "tools": TOOLS,
}


def said(*texts: str, system: str | None = None) -> list[dict[str, str]]:
    """Return a conversation of a user and an assistant, the user first."""
    begun = [] if system is None else [{"role": "system", "content": system}]
    roles = ("user", "assistant")
    return begun + [{"role": roles[index % 2], "content": text} for index, text in enumerate(texts)]


def chat_tokenizer(template: object = CHATML, **settings: object) -> Tokenizer:
    """Return a tokenizer that has a chat template and the special tokens of all templates here."""
    plain = tokenizer(special_tokens=("<|endoftext|>", *TOKENS))
    config = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": template, **settings}
    special = list(plain.special_token_ids)
    return Tokenizer(plain.vocab, plain.merges, special, tokenizer_config=config)
