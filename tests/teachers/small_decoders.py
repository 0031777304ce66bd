"""Small decoders of several families with random weights, in Hugging Face folders and in a GGUF file."""

from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModel,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

WORDS = ["<end>", "<begin>", "red", "blue", "gel", "pen", "office", "paper", "ink", "chair", "desk", "lamp", "oak"]
LAYERS = 3
WIDTHS = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": LAYERS, "num_attention_heads": 4}
GROUPED = {**WIDTHS, "num_key_value_heads": 2, "max_position_embeddings": 64}
CONFIGS = {
    "llama": lambda size: LlamaConfig(vocab_size=size, **GROUPED),
    "mistral": lambda size: MistralConfig(vocab_size=size, **GROUPED),
    "qwen2": lambda size: Qwen2Config(vocab_size=size, **GROUPED),
    "qwen3": lambda size: Qwen3Config(vocab_size=size, head_dim=8, **GROUPED),
    "gemma": lambda size: GemmaConfig(vocab_size=size, head_dim=8, **GROUPED),
    "gpt2": lambda size: GPT2Config(vocab_size=size, n_embd=32, n_layer=LAYERS, n_head=4, n_positions=64),
}


def save_decoder(folder: Path, family: str, seed: int = 0, words: list[str] | None = None, **marks: str) -> Path:
    """A decoder and a tokenizer of whole words with an end token and, unless `marks` says so, no padding token."""
    words = words or WORDS
    core = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token=words[0]))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=core, **(marks or {"eos_token": words[0]})).save_pretrained(folder)
    torch.manual_seed(seed)
    body = AutoModel.from_config(CONFIGS[family](len(words)))
    with torch.no_grad():
        for parameter in body.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))  # layers that make a difference
    body.save_pretrained(folder)
    return folder


def save_gguf(body: torch.nn.Module, file: Path) -> Tokenizer:
    """A Llama body as llama.cpp keeps it, with a byte-level tokenizer, whose twin is returned."""
    from gguf import GGUFWriter

    config, state = body.config, {name: value.detach().numpy() for name, value in body.state_dict().items()}
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<end>", "<begin>", *letters, "re", "red", "Ġp", "Ġpe", "Ġpen"]
    merges = ["r e", "re d", "Ġ p", "Ġp e", "Ġpe n"]
    writer = GGUFWriter(file, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3] + [1] * (len(tokens) - 2))
    writer.add_token_merges(merges)
    writer.add_eos_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(False)
    heads = {"q": config.num_attention_heads, "k": config.num_key_value_heads}
    writer.add_tensor("token_embd.weight", state["embed_tokens.weight"])
    writer.add_tensor("output_norm.weight", state["norm.weight"])
    for layer in range(config.num_hidden_layers):
        old, new = f"layers.{layer}", f"blk.{layer}"
        for part in "qkvo":
            matrix = state[f"{old}.self_attn.{part}_proj.weight"]
            if part in heads:  # the two halves of each head's rotary dimensions stand in turn there
                turned = matrix.reshape(heads[part], 2, -1, matrix.shape[1]).swapaxes(1, 2)
                matrix = np.ascontiguousarray(turned.reshape(matrix.shape))
            writer.add_tensor(f"{new}.attn_{part if part != 'o' else 'output'}.weight", matrix)
        for part in ("gate", "up", "down"):
            writer.add_tensor(f"{new}.ffn_{part}.weight", state[f"{old}.mlp.{part}_proj.weight"])
        writer.add_tensor(f"{new}.attn_norm.weight", state[f"{old}.input_layernorm.weight"])
        writer.add_tensor(f"{new}.ffn_norm.weight", state[f"{old}.post_attention_layernorm.weight"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    pairs = [tuple(merge.split(" ")) for merge in merges]
    twin = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, pairs))
    twin.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    twin.decoder = decoders.ByteLevel()
    return twin
