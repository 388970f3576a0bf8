"""`config.json` of the small models that people use: every key of the original, sizes made small.

Contexts are 256 tokens where the originals have thousands; windows and original contexts shrink with them.
"""

import json

import torch

from tests.small_models import END, tokenizer

_LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": None,
    "hidden_act": "silu",
    "hidden_size": 48,
    "initializer_range": 0.02,
    "intermediate_size": 80,
    "max_position_embeddings": 256,
    "model_type": "llama",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-5,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "transformers_version": "4.40.0",
    "use_cache": True,
}
_LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
    "rope_type": "llama3",
}
_MISTRAL = {
    **{key: _LLAMA[key] for key in _LLAMA if key not in ("attention_bias", "pretraining_tp", "rope_scaling")},
    "architectures": ["MistralForCausalLM"],
    "model_type": "mistral",
    "rope_theta": 10000.0,
}
_QWEN2 = {
    **{key: _LLAMA[key] for key in _LLAMA if key not in ("attention_bias", "pretraining_tp", "rope_scaling")},
    "architectures": ["Qwen2ForCausalLM"],
    "max_window_layers": 2,
    "model_type": "qwen2",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "sliding_window": 256,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
}
_YARN = {"factor": 4.0, "original_max_position_embeddings": 64, "type": "yarn"}
_QWEN3 = {
    **_QWEN2,
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "head_dim": 20,  # 128 with hidden_size 1024 and 16 heads in Qwen3-0.6B
    "model_type": "qwen3",
    "rope_scaling": None,
    "sliding_window": None,
}
_SMOLLM3 = {
    **_LLAMA,
    "architectures": ["SmolLM3ForCausalLM"],
    "layer_types": ["full_attention"] * 4,
    "max_window_layers": 28,
    "mlp_bias": False,
    "model_type": "smollm3",
    "no_rope_layer_interval": 4,
    "no_rope_layers": [1, 1, 1, 0],
    "num_hidden_layers": 4,
    "pretraining_tp": 2,
    "rope_theta": 5000000.0,
    "sliding_window": None,
    "use_sliding_window": False,
}
del _SMOLLM3["tie_word_embeddings"]  # tied, as the class has it

FAMILIES = {
    "Llama 2": {**_LLAMA, "num_key_value_heads": 4, "pad_token_id": None},
    "Llama 3": {**_LLAMA, "rope_theta": 500000.0},
    "Llama 3.1": {**_LLAMA, "mlp_bias": False, "rope_scaling": _LLAMA3, "rope_theta": 500000.0},
    "Llama 3.2": {
        **{**_LLAMA, "head_dim": 12, "mlp_bias": False, "rope_scaling": {**_LLAMA3, "factor": 32.0}},
        **{"rope_theta": 500000.0, "tie_word_embeddings": True},
    },
    "Llama of 2023 with longer positions": {**_LLAMA, "rope_scaling": {"type": "linear", "factor": 4.0}},
    "TinyLlama": {**_LLAMA, "num_attention_heads": 8, "num_key_value_heads": 1, "rope_theta": 10000.0},
    "SmolLM 2": {
        **{**_LLAMA, "is_llama_config": True, "rope_interleaved": False, "rope_theta": 100000},
        **{"num_attention_heads": 6, "num_key_value_heads": 3, "tie_word_embeddings": True},
    },
    "SmolLM 3": {**_SMOLLM3, "pad_token_id": 1},
    "SmolLM 3 with a window where no position is": {
        **{**_SMOLLM3, "use_sliding_window": True, "sliding_window": 24, "pad_token_id": 1},
        "layer_types": ["full_attention"] * 3 + ["sliding_attention"],
    },
    "Qwen 2.5": _QWEN2,
    "Qwen 2.5 with YaRN": {**_QWEN2, "rope_scaling": _YARN},
    "Qwen 2 with a window in upper layers": {
        **{**_QWEN2, "use_sliding_window": True, "sliding_window": 24, "max_window_layers": 1},
    },
    "Qwen 3": _QWEN3,
    "Qwen 3 with YaRN": {
        **{**_QWEN3, "rope_scaling": {"rope_type": "yarn", **_YARN, "attention_factor": 1.3}},
    },
    "Mistral 7B v0.1": {**_MISTRAL, "sliding_window": 24},
    "Mistral 7B v0.3": {**_MISTRAL, "rope_theta": 1000000.0, "sliding_window": None},
    "Mistral NeMo": {**_MISTRAL, "head_dim": 8, "rope_theta": 1000000.0, "sliding_window": None},
    "Ministral 8B": {
        **{**_MISTRAL, "head_dim": 12, "rope_theta": 100000000.0, "sliding_window": 256},
    },
    "Ministral 8B with its windows": {
        **{**_MISTRAL, "architectures": ["MinistralForCausalLM"], "model_type": "ministral"},
        **{"head_dim": 12, "sliding_window": 24, "num_hidden_layers": 4},
        "layer_types": ["full_attention"] + ["sliding_attention"] * 3,
    },
}
"""Name -> `config.json`."""


def write_family(transformers, folder, name, dtype=torch.float32, seed=0):
    """Write the folder of a model of a family with random weights, as its authors would; return it."""
    folder.mkdir(parents=True)
    end = tokenizer().special_token_ids[END]
    rows = {"vocab_size": tokenizer().vocab_size + 6, "eos_token_id": end}  # padded, as many are
    values = FAMILIES[name] | rows
    (folder / "config.json").write_text(json.dumps(values))
    torch.manual_seed(seed)
    config = transformers.AutoConfig.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
        else:
            torch.nn.init.normal_(parameter, std=0.15)
    model.tie_weights()
    model.to(dtype).save_pretrained(folder)
    tokenizer().export_tokenizer_json(folder)
    # The config of today's transformers is another form than the one that is to be read.
    (folder / "config.json").write_text(
        json.dumps(values | {"torch_dtype": str(dtype).removeprefix("torch.")})
    )
    return folder
