"""Tiny models of the families of ``transformers`` that people train."""

from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig

VOCABULARY = 96

BASE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
"""Numbers that most configs have; of three times 32, the vocabulary could be a fused projection."""

MHA = {"num_key_value_heads": 4}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
MIXTURE = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2}
MLA = {
    **MHA,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 6,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "moe_intermediate_size": 20,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
    "num_experts_per_tok": 2,
    "head_dim": 4,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 8,
}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
SPEECH = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "num_mel_bins": 8,
    "max_source_positions": 16,
    "max_target_positions": 64,
}

FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "LLaMA": ("CausalLM", "llama", {}),
    "Mistral": ("CausalLM", "mistral", {}),
    "Mixtral": ("CausalLM", "mixtral", MIXTURE),
    "Qwen2": ("CausalLM", "qwen2", {}),
    "Qwen2MoE": (
        "CausalLM",
        "qwen2_moe",
        {**MIXTURE, "moe_intermediate_size": 20, "shared_expert_intermediate_size": 28},
    ),
    "Qwen3": ("CausalLM", "qwen3", {}),
    "Qwen3MoE": ("CausalLM", "qwen3_moe", {**MIXTURE, "moe_intermediate_size": 20}),
    "Qwen3-Next": (
        "CausalLM",
        "qwen3_next",
        {
            **MIXTURE,
            "moe_intermediate_size": 20,
            "shared_expert_intermediate_size": 28,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 6,
            "layer_types": ["linear_attention", "full_attention"],
        },
    ),
    "Gemma": ("CausalLM", "gemma", {}),
    "Gemma 2": ("CausalLM", "gemma2", {}),
    "Gemma 3": ("CausalLM", "gemma3_text", {}),
    "Phi": ("CausalLM", "phi", {}),
    "Phi-3": ("CausalLM", "phi3", {}),
    "PhiMoE": ("CausalLM", "phimoe", MIXTURE),
    "GLM": ("CausalLM", "glm", {}),
    "GLM-4": ("CausalLM", "glm4", {}),
    "DeepSeek V2": ("CausalLM", "deepseek_v2", MLA),
    "DeepSeek V3": ("CausalLM", "deepseek_v3", MLA),
    "OLMo": ("CausalLM", "olmo", {}),
    "OLMo 2": ("CausalLM", "olmo2", {}),
    "OLMoE": ("CausalLM", "olmoe", MIXTURE),
    "GPT-2": ("CausalLM", "gpt2", GPT),
    "GPT-J": ("CausalLM", "gptj", {**GPT, "rotary_dim": 4}),
    "GPT-Neo": (
        "CausalLM",
        "gpt_neo",
        {"num_layers": 2, "num_heads": 4, "attention_types": [[["global"], 2]]},
    ),
    "GPT-NeoX": ("CausalLM", "gpt_neox", {}),
    "GPT-BigCode": ("CausalLM", "gpt_bigcode", {**GPT, "multi_query": True}),
    "GPT-BigCode, all heads": ("CausalLM", "gpt_bigcode", {**GPT, "multi_query": False}),
    "GPT-OSS": (
        "CausalLM",
        "gpt_oss",
        {**MIXTURE, "layer_types": ["full_attention", "full_attention"]},
    ),
    "CodeGen": (
        "CausalLM",
        "codegen",
        {**GPT, "num_attention_heads": 8, "n_head": 8, "rotary_dim": 4},
    ),
    "OPT": ("CausalLM", "opt", {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "Bloom": ("CausalLM", "bloom", {"n_layer": 2, "n_head": 4}),
    "Falcon, new": (
        "CausalLM",
        "falcon",
        {"new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 2},
    ),
    "Falcon 7B": ("CausalLM", "falcon", {"new_decoder_architecture": False, "multi_query": True}),
    "Falcon RW": ("CausalLM", "falcon", {"new_decoder_architecture": False, "multi_query": False}),
    "MPT": ("CausalLM", "mpt", {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64}),
    "Persimmon": ("CausalLM", "persimmon", {}),
    "Starcoder2": ("CausalLM", "starcoder2", {}),
    "StableLM": ("CausalLM", "stablelm", {}),
    "Cohere": ("CausalLM", "cohere", {}),
    "Granite": ("CausalLM", "granite", {}),
    "Granite MoE, shared": (
        "CausalLM",
        "granitemoeshared",
        {**MIXTURE, "shared_intermediate_size": 28},
    ),
    "MiniMax": (
        "CausalLM",
        "minimax",
        {**MIXTURE, "layer_types": ["linear_attention", "full_attention"]},
    ),
    "Llama 4": (
        "CausalLM",
        "llama4_text",
        {**MIXTURE, "intermediate_size_mlp": 40, "moe_layers": [1]},
    ),
    "DBRX": (
        "CausalLM",
        "dbrx",
        {
            "d_model": 32,
            "n_heads": 4,
            "n_layers": 2,
            "max_seq_len": 64,
            "attn_config": {"kv_n_heads": 2, "clip_qkv": 1e4, "rope_theta": 1e4},
            "ffn_config": {"ffn_hidden_size": 20, "moe_num_experts": 4, "moe_top_k": 2},
        },
    ),
    "Mamba": ("CausalLM", "mamba", {"state_size": 6, "time_step_rank": 4, "expand": 2}),
    "Mamba 2": (
        "CausalLM",
        "mamba2",
        {"state_size": 6, "num_heads": 8, "head_dim": 8, "n_groups": 2, "expand": 2},
    ),
    "Jamba": (
        "CausalLM",
        "jamba",
        {
            **MIXTURE,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "mamba_d_state": 6,
            "mamba_dt_rank": 4,
        },
    ),
    "RecurrentGemma": (
        "CausalLM",
        "recurrent_gemma",
        {"lru_width": 40, "block_types": ["recurrent", "attention"]},
    ),
    "RWKV": ("CausalLM", "rwkv", {"attention_hidden_size": 32, "context_length": 64}),
    "LFM2": ("CausalLM", "lfm2", {"layer_types": ["conv", "full_attention"]}),
    "BERT": ("MaskedLM", "bert", {}),
    "RoBERTa": ("MaskedLM", "roberta", {}),
    "DeBERTa": ("MaskedLM", "deberta", {}),
    "ModernBERT": ("MaskedLM", "modernbert", {}),
    "T5": ("Seq2SeqLM", "t5", T5),
    "BART": ("Seq2SeqLM", "bart", {k: v for k, v in SPEECH.items() if "source" not in k}),
    "Whisper": ("SpeechSeq2Seq", "whisper", SPEECH),
    "ViT": ("ImageClassification", "vit", {**VISION, "num_labels": 5}),
    "CLIP": (
        "",
        "clip",
        {
            "text_config": {**VISION, "vocab_size": VOCABULARY},
            "vision_config": VISION,
            "projection_dim": 24,
        },
    ),
}
"""Family → which automatic class of ``transformers``, model type, and what differs from BASE."""


def build(family: str, device: str = "meta") -> nn.Module:
    """Build a tiny model."""
    kind, name, numbers = FAMILIES[family]
    known = set(vars(AutoConfig.for_model(name))) | set(AutoConfig.for_model(name).attribute_map)
    numbers = {k: v for k, v in BASE.items() if k in known} | numbers
    automatic = getattr(transformers, f"AutoModelFor{kind}" if kind else "AutoModel")
    config = AutoConfig.for_model(name, **numbers)
    config._attn_implementation = config._experts_implementation = "eager"
    with torch.device(device):
        model: nn.Module = automatic.from_config(config)
    return model
