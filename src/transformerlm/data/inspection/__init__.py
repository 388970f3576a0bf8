"""Inspection of text and token files before training: what is in them, what is there twice, what leaks.

`facts.py` is the result; `observer.py` looks at each document and `corpus_facts.py` sums up; `token_facts.py`
and `leak_facts.py` look at token files; `run.py` puts them together.
"""
