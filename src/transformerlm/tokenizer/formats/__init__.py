"""File formats of tokenizers: GPT-2's two files with a manifest, `tokenizer.json`, tiktoken's encodings."""
