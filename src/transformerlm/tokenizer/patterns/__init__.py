"""Pre-tokenisation patterns as finite automata.

    characters.py   sets of characters, from the Unicode data of the `regex` package
    syntax.py       from a regular expression to a tree; what is not supported is refused
    program.py      from a tree to a program for a machine with several threads
    automaton.py    from a program to a table, and where a text may be cut
    compiled.py     `compile_pattern`: splits to an automaton

The subset is what tokenizers use: characters and classes of them, alternatives, repetition (greedy, lazy, and
possessive of one class), and looking at the next or the previous character.
"""
