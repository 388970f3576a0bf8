"""Any text in Markdown and YAML, read back by parsers of both."""

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from transformerlm.report import markdown
from transformerlm.report.text import visible

BAD = [
    *(
        "---\n",
        "\n---\nlicense: x\n---",
        "```\n~~~\n````",
        "<script>alert(1)</script>",
        "a | b \\| c",
        "`",
        "``",
    ),
    *(
        "# x",
        "* x",
        "[a](javascript:b)",
        "&lt;",
        "$$x$$",
        "</details>",
        "\x00\x1b[31m\r\n\x85\u2028\u2029\ufeff",
    ),
    *("x" * 10_000, "日本語 😀 \u202e", "{{ name }} {% raw %}", ": #", "'\"\\", " lead and trail ", "\t", ""),
]
ANY = st.text() | st.text(alphabet="`|\\<>*_[]~$&#{}!- \n\r:'\"x")


def examples(test):
    for text in BAD:
        test = example(text)(test)
    return test


@examples
@given(ANY)
def test_yaml_reads_the_same_text(text):
    content = f"a: {markdown.yaml(text)}\nb: {markdown.yaml([{'text': text}])}\n"
    content = content.encode("utf-8", "replace").decode()
    if text.isprintable() or text in BAD:
        assert yaml.safe_load(content) == {"a": text, "b": [{"text": text}]}
    else:
        assert yaml.safe_load(content).keys() == {"a", "b"}
    assert content.count("\n") == 2


@examples
@given(ANY)
def test_a_block_is_one_block(text):
    parsed = MarkdownIt("commonmark").parse(f"before\n\n{markdown.block(text)}\n\nafter\n")
    kinds = [token.type for token in parsed]
    paragraph = ["paragraph_open", "inline", "paragraph_close"]
    assert kinds == [*paragraph, "fence", *paragraph]
    shown = visible(text.replace("\r\n", "\n"))
    assert parsed[3].content.removesuffix("\n") == shown.removesuffix("\n")


def cells(row):
    parser = MarkdownIt("commonmark").enable("table")
    parsed = parser.parse(f"| a | b |\n|---|---|\n{row}\n\nafter\n")
    assert [token.type for token in parsed[-3:]] == ["paragraph_open", "inline", "paragraph_close"]
    return [token for token in parsed if token.type == "inline"][2:-1]


@pytest.mark.parametrize("shown", [markdown.plain, markdown.code])
def test_names_stay_in_their_cell(shown):
    @examples
    @given(ANY)
    def check(text):
        found = cells(f"| {shown(text)} | last |")
        assert len(found) == 2
        assert found[1].content == "last"
        inner = found[0].children
        assert {token.type for token in inner} <= {"text", "text_special", "code_inline"}
        read = "".join(token.content for token in inner)
        if text.isprintable() and text.strip():
            assert read.strip() == text.strip()

    check()
