"""A `tokenizer.json` in the form of each family of tokenizers that people use, with a small vocabulary.

The merges join words, punctuation and white space, so that a text divided in another place gets other ids.
"""

import functools
import json
import random

import tokenizers
from tokenizers import Regex, models, pre_tokenizers, trainers

from transformerlm.tokenizer.byte_alphabet import token_to_text

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN = LLAMA3.replace("{1,3}", "")
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|"
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK_3 = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"
    r" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BLOOM = r" ?[^(\s|[.,!?…。，、।۔،])]+"

CORPUS = """The quick brown fox's tail, it's 12 345 feet long; they'll measure 3.14159 of it (or 2,718)!
    def f(x):\n        if x > 0:\n            return x ** 2  # squared\n\n\n\treturn None\r\n
Größe, naïve café — “déjà vu” … ÀÉÎÕÜ e\u0301a\u0300o\u0308; ﬁne ﬂow ½ Ⅷ ² ³ ㎏ ｆｕｌｌ
日本語のテキスト、中文文本。한국어 텍스트 Привет, мир! Ελληνικά ΣΑΣ العربية עברית हिन्दी ไทย
emoji 👩‍👩‍👧 🏳️‍🌈 👍🏽 🇩🇪 http://a.b/c?d=e&f=g user@example.com A_B-C {"key": [1, 2]} <b>x</b>
"""


def trained(texts, vocab_size, *, spelled):
    """Vocabulary and merges; of bytes where `spelled`, else of characters with a sign for spaces."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    # Loose: tokens go over the borders of words, so that it shows where those are.
    loose = pre_tokenizers.Split(Regex(r"[\s\S]{1,24}"), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([loose, byte_level] if spelled else [loose])
    alphabet = pre_tokenizers.ByteLevel.alphabet() if spelled else []
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], model["merges"]


@functools.cache
def of_bytes():
    lines = CORPUS.splitlines(keepends=True) * 3
    return trained([*lines, *(line.lower() for line in lines), *words()], 1400, spelled=True)


@functools.cache
def of_characters(*, joins_words):
    lines = [line.replace(" ", "▁") for line in CORPUS.splitlines(keepends=True)[:3] * 3]
    if not joins_words:
        lines = [word for line in lines for word in line.replace("▁", " ▁").split(" ")]
    return trained([*lines, *words()], 500, spelled=False)


def words():
    return [word for word in CORPUS.split(" ") if len(word) < 20] * 2


def added(content, token_id, **flags):
    usual = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": token_id, "content": content, **usual, **flags}


def content_of(vocab, merges, *, added_tokens=(), model=None, **sections):
    """A `tokenizer.json`; ids of added tokens that the vocabulary lacks follow."""
    following = iter(range(len(vocab), len(vocab) + len(added_tokens)))
    tokens = [
        added(text, vocab[text] if text in vocab else next(following), **flags)
        for text, flags in dict(added_tokens).items()
    ]
    empty = dict.fromkeys(["normalizer", "pre_tokenizer", "post_processor", "decoder"])
    settings = {"dropout": None, "unk_token": None, "continuing_subword_prefix": None}
    settings |= {
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": tokens,
        **empty,
        **sections,
        "model": {"type": "BPE", **settings, **(model or {}), "vocab": vocab, "merges": merges},
    }


def byte_level(*, prefix=False, trim=True, regex=True):
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": trim, "use_regex": regex}


def split(pattern, behavior="Isolated", *, invert=False, kind="Regex"):
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}


def sequence(*steps, key="pretokenizers"):
    return {"type": "Sequence", key: list(steps)}


def splits(*steps):
    return sequence(*steps, byte_level(regex=False))


def template(before="", after=""):
    parts = [{"SpecialToken": {"id": before, "type_id": 0}}] if before else []
    parts.append({"Sequence": {"id": "A", "type_id": 0}})
    parts += [{"SpecialToken": {"id": after, "type_id": 0}}] if after else []
    return {"type": "TemplateProcessing", "single": parts, "pair": parts}


END = {"<|endoftext|>": {}}
CHAT = {**END, "<|im_start|>": {}, "<|im_end|>": {}}
THINK = {"<think>": {"special": False}, "</think>": {"special": False}}
NFC = {"type": "NFC"}
DIGITS = {"type": "Digits", "individual_digits": True}


def bytes_file(pre_tokenizer, tokens=END, **settings):
    vocab, merges = of_bytes()
    file = content_of(
        dict(vocab),
        merges,
        pre_tokenizer=pre_tokenizer,
        added_tokens=tokens,
        **{"decoder": byte_level(), "post_processor": byte_level(trim=False), **settings},
    )
    return with_template_ids(file)


def without_bytes(file, missing, unk_token=None, *, fuse_unk=False):
    """The file without these bytes, as of a vocabulary that was learned from a text without them."""
    model, letters = file["model"], {token_to_text(bytes([byte])) for byte in missing}
    kept = [token for token in model["vocab"] if letters.isdisjoint(token)]
    for token in file["added_tokens"]:
        token["id"] += len(kept) - len(model["vocab"])
    if unk_token:
        kept.append(unk_token)
        for token in file["added_tokens"]:
            token["id"] += 1
        file["added_tokens"].insert(0, added(unk_token, len(kept) - 1))
    model["vocab"] = {token: number for number, token in enumerate(kept)}
    model["merges"] = [pair for pair in model["merges"] if letters.isdisjoint("".join(pair))]
    model |= {"unk_token": unk_token, "fuse_unk": fuse_unk}
    return file


NOT_IN_UTF8 = [0xC0, 0xC1, *range(0xF5, 0x100)]
SMOLLM_LACKS = [0x04, 0x06, 0x13, 0x14, 0x16, 0x1D, 0xF1, 0xF2, *NOT_IN_UTF8]
LEARNER_LACKS = [*range(9), *range(11, 32), *b"[]{}-", 0x7F, 0xE3, 0xF0, *NOT_IN_UTF8]
"""Bytes without which people train tokenizers on a text of their own, some of them of characters in use."""


def with_template_ids(file):
    """The file with what a TemplateProcessing says of its special tokens."""
    ids = {token["content"]: token["id"] for token in file["added_tokens"]}
    post = file["post_processor"] or {}
    for step in [post, *post.get("processors", [])]:
        if step.get("type") == "TemplateProcessing":
            used = [part["SpecialToken"]["id"] for part in step["single"] if "SpecialToken" in part]
            step["special_tokens"] = {
                token: {"id": token, "ids": [ids[token]], "tokens": [token]} for token in used
            }
    return file


def llama2_decoder(*, strips=True):
    steps = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    return sequence(*steps, *[strip] * strips, key="decoders")


def llama2_normalizer():
    prepend = {"type": "Prepend", "prepend": "▁"}
    return sequence(
        prepend, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}, key="normalizers"
    )


def characters_file(*, joins_words=False, tokens=None, **settings):
    """A vocabulary as sentencepiece makes it: three special tokens, the bytes, pieces, characters."""
    vocab, merges = of_characters(joins_words=joins_words)
    first = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    ids = {token: token_id for token_id, token in enumerate([*first, *vocab])}
    model = {"unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True, **settings.pop("model", {})}
    usual = {"<unk>": {}, "<s>": {}, "</s>": {}} if tokens is None else tokens
    file = content_of(
        ids,
        merges,
        added_tokens=usual,
        model=model,
        **{"decoder": llama2_decoder(), "post_processor": template("<s>"), **settings},
    )
    return with_template_ids(file)


def codegen_tokens():
    plain = {"normalized": True, "special": False}
    return {"<|endoftext|>": {}, **{" " * number: plain for number in range(24, 1, -1)}, "\t\t": plain}


FAMILIES = {
    "GPT-2": lambda: bytes_file(byte_level()),
    "RoBERTa": lambda: bytes_file(
        byte_level(prefix=True),
        {"<s>": {"normalized": True}, "</s>": {"normalized": True}, "<mask>": {"lstrip": True}},
        post_processor={
            "type": "RobertaProcessing",
            "sep": ["</s>", len(of_bytes()[0]) + 1],
            "cls": ["<s>", len(of_bytes()[0])],
            "trim_offsets": True,
            "add_prefix_space": True,
        },
    ),
    "CodeGen": lambda: bytes_file(byte_level(), codegen_tokens()),
    "Phi-2": lambda: bytes_file(byte_level(), codegen_tokens()),
    "Pythia": lambda: without_bytes(
        bytes_file(
            byte_level(),
            {**END, "<|padding|>": {}, "  ": {"normalized": True, "special": False}},
            normalizer=NFC,
        ),
        NOT_IN_UTF8,
    ),
    "bytes left out": lambda: without_bytes(bytes_file(byte_level()), LEARNER_LACKS),
    "unknown bytes": lambda: without_bytes(bytes_file(byte_level()), LEARNER_LACKS, "[UNK]"),
    "unknown bytes, fused": lambda: without_bytes(
        bytes_file(splits(split(LLAMA3))), LEARNER_LACKS, "[UNK]", fuse_unk=True
    ),
    "characters in words": lambda: characters_file(
        pre_tokenizer={"type": "Whitespace"},
        normalizer=sequence(
            {"type": "NFD"}, {"type": "StripAccents"}, {"type": "Lowercase"}, key="normalizers"
        ),
        decoder=None,
        model={"unk_token": "<unk>", "fuse_unk": False, "byte_fallback": False},
    ),
    "StarCoder2": lambda: bytes_file(sequence(DIGITS, byte_level())),
    "SmolLM 2": lambda: without_bytes(bytes_file(sequence(DIGITS, byte_level()), CHAT), SMOLLM_LACKS),
    "SmolLM 3": lambda: bytes_file(splits(split(LLAMA3)), {**CHAT, **THINK}, model={"ignore_merges": True}),
    "Llama 3": lambda: bytes_file(
        splits(split(LLAMA3)),
        {"<|begin_of_text|>": {}, "<|end_of_text|>": {}},
        model={"ignore_merges": True},
        post_processor=sequence(byte_level(), template("<|begin_of_text|>"), key="processors"),
    ),
    "Qwen 2.5": lambda: bytes_file(splits(split(QWEN)), CHAT, normalizer=NFC),
    "Qwen 3": lambda: bytes_file(splits(split(QWEN)), {**CHAT, **THINK}, normalizer=NFC),
    "Phi-4": lambda: bytes_file(
        splits(split(LLAMA3, "Removed", invert=True)),
        {
            **END,
            "<|im_start|>": {"lstrip": True, "rstrip": True},
            "<|im_end|>": {"lstrip": True, "rstrip": True},
        },
    ),
    "OLMo 2": lambda: bytes_file(
        splits(split(LLAMA3, "Removed", invert=True)), {**END, "|||IP_ADDRESS|||": {"special": False}}
    ),
    "DeepSeek 2": lambda: bytes_file(
        sequence(
            split("[\r\n]"),
            split(r"\s?\p{L}+"),
            split(r"\s?\p{P}+"),
            split("[一-龥ࠀ-一가-퟿]+"),
            {"type": "Digits", "individual_digits": True},
            byte_level(regex=False),
        ),
        {"<｜begin▁of▁sentence｜>": {}, "<｜end▁of▁sentence｜>": {"normalized": True}},
        normalizer=sequence(key="normalizers"),
        post_processor=template("<｜begin▁of▁sentence｜>"),
    ),
    "DeepSeek 3": lambda: bytes_file(
        splits(split(r"\p{N}{1,3}"), split("[一-龥぀-ゟ゠-ヿ]+"), split(DEEPSEEK_3)),
        {"<｜begin▁of▁sentence｜>": {}, "<think>": {"special": False, "normalized": True}},
    ),
    "Falcon": lambda: bytes_file(
        sequence(
            {"type": "Punctuation", "behavior": "Contiguous"},
            byte_level(),
            {"type": "Digits", "individual_digits": False},
            split("[0-9][0-9][0-9]"),
        )
    ),
    "BLOOM": lambda: bytes_file(splits(split(BLOOM)), {"<unk>": {}, "<s>": {}, "</s>": {}}),
    "Command-R": lambda: bytes_file(
        sequence(DIGITS, byte_level()),
        {"<BOS_TOKEN>": {}},
        normalizer=NFC,
        post_processor=template("<BOS_TOKEN>"),
    ),
    "NeMo": lambda: bytes_file(
        splits(split(TEKKEN)), {"<s>": {}, "[INST]": {}}, model={"ignore_merges": True}
    ),
    "Llama 2": lambda: characters_file(normalizer=llama2_normalizer()),
    "TinyLlama": lambda: characters_file(
        normalizer=llama2_normalizer(), post_processor=template("<s>", "</s>")
    ),
    "Mistral 7B": lambda: characters_file(
        pre_tokenizer={"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False},
        tokens={"<unk>": {}, "<s>": {}, "</s>": {}, "[INST]": {}},
    ),
    "Gemma": lambda: characters_file(
        joins_words=True,
        normalizer={"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        pre_tokenizer=split(" ", "MergedWithPrevious", kind="String"),
        decoder=llama2_decoder(strips=False),
        tokens={
            "<unk>": {},
            "<s>": {},
            "<start_of_turn>": {},
            "\n\n": {"special": False},
            "▁▁": {"special": False},
        },
    ),
}
"""Family -> function that returns the content of its file."""


ALPHABETS = [
    "abcdefghij ABC.,;'\n",
    "  \t\n\r\u00a0\u2003\u3000\u200b",
    "0123456789²½Ⅷ٣३ ",
    "éèüßñÀø’“”—…",
    "e\u0301a\u0300\u0323o\u0308\u0344 \u0315\u0300\u05ae",
    "日本語中文한국어\u1112\u1161\u11abがか\u3099ﾞｶ",
    "ПриветΣςσ العربية हिन्दी ไทย",
    "👩\u200d👧🏳️🌈👍🏽🇩🇪\ufe0f",
    "ﬁﬂ㎏ｆ①™Åİıſ",
    "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~",
    "a!\x04\x06\x1d\x00b'\x13s",
]


def texts(seed, number, tokens=()):
    """Texts of words, of other scripts, marks and white space, with added tokens and their parts in them."""
    generator = random.Random(seed)
    pieces = [piece for line in CORPUS.splitlines() for piece in line.split(" ")]
    for _ in range(number):
        parts = []
        for _ in range(generator.randint(0, 12)):
            kind = generator.random()
            if kind < 0.5:
                parts.append(generator.choice(["", " ", " ", "  "]) + generator.choice(pieces))
            elif kind < 0.85 or not tokens:
                parts.append(
                    "".join(generator.choices(generator.choice(ALPHABETS), k=generator.randint(1, 6)))
                )
            else:
                token = generator.choice(tokens)
                parts.append(token if kind < 0.95 else token[: generator.randint(1, len(token))])
        yield "".join(parts)
