"""Which weights of the model libraries hold several matrices, or a transposed one: a table.

Read by hand from the ``forward`` of transformers 5.23.0 and torch. A module is known by the name of
the class whose ``forward`` it runs; the numbers are its own, and must add up to the shape.
"""

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from gradopt_ds.optim.splits import Inside

QKV = "queries, keys and values, one after the other"
QKV_PER_HEAD = "queries, keys and values, head by head"
GATE_UP = "gate and up, one after the other"
EXPERTS_APART = "experts stacked in one tensor"
GATED_EXPERTS = "experts stacked in one tensor, gate and up apart"
TRANSPOSED = "weight of a hidden layer, stored transposed"


def _apart(reason: str, *sizes: int) -> Inside:
    return Inside(reason, sizes)


def _qkv(queries: int, others: int, head: int) -> Inside:
    return Inside(QKV, (queries, others, others), heads=(head,))


def _per_head(heads: int, *sizes: int, reason: str = QKV_PER_HEAD) -> Inside:
    return Inside(reason, sizes, groups=heads, heads=sizes)


def _halves(down: nn.Linear) -> Inside:
    return _apart(GATE_UP, down.in_features, down.in_features)


def _vision(m: Any) -> Inside:
    size = (m.proj if hasattr(m, "proj") else m.projection).in_features
    count = m.num_heads if hasattr(m, "num_heads") else m.num_attention_heads
    return _qkv(size, size, size // count)


def _conv1d_attention(m: Any) -> Inside:
    count = m.num_heads if hasattr(m, "num_heads") else m.n_head
    parts, head = m.c_attn.nf // m.split_size, m.split_size // count
    name = "keys and values" if parts == 2 else "queries, keys and values"
    reason = f"{name}, one after the other, stored transposed"
    return Inside(reason, (m.split_size,) * parts, transposed=True, heads=(head,))


def _grouped(m: Any) -> Inside:
    size = m.head_dim
    return _qkv(m.config.num_attention_heads * size, m.num_key_value_heads * size, size)


def _codegen(m: Any) -> Inside:
    reason = "queries, values and keys, in four groups of heads"
    sizes = (m.num_attention_heads * m.head_dim // 4,) * 3
    return Inside(reason, sizes, groups=4, heads=(m.head_dim,))


def _falcon(m: Any) -> Inside:
    size = m.head_dim
    if m.new_decoder_architecture:
        sizes = (m.num_heads // m.num_kv_heads * size, size, size)
        return Inside(QKV_PER_HEAD, sizes, groups=m.num_kv_heads, heads=(size,))
    if m.multi_query:
        return _qkv(m.num_heads * size, size, size)
    return _per_head(m.num_heads, size, size, size)


def _bigcode(m: Any) -> Inside:
    if m.multi_query:
        return _qkv(m.embed_dim, m.kv_dim, m.head_dim)
    return _per_head(m.num_heads, *[m.head_dim] * 3)


def _mamba2(m: Any) -> Inside:
    state = m.n_groups * m.ssm_state_size
    return _apart(
        "gate, input, B, C and steps of a state space, one after the other",
        *(m.intermediate_size, m.intermediate_size, state, state, m.num_heads),
    )


def _delta_net(m: Any) -> Inside:
    value = m.num_v_heads // m.num_k_heads * m.head_v_dim
    reason = "queries, keys, values and gate, head by head"
    return _per_head(m.num_k_heads, m.head_k_dim, m.head_k_dim, value, value, reason=reason)


MLA = (
    "DeepseekV2Attention DeepseekV3Attention DeepseekV32Attention AXK1Attention YoutuAttention "
    "Glm4MoeLiteAttention GlmMoeDsaAttention BailingHybridAttention MiniCPM3Attention "
    "Mistral4Attention LongcatFlashMLA"
)
GATED_QUERIES = "Qwen3NextAttention Qwen3_5Attention Qwen3_5MoeAttention"
GATED_MLPS = (
    "DiaMLP GlmMLP Glm4MLP Glm4vTextMLP GlmImageTextMLP GlmOcrTextMLP Phi3MLP Phi4MultimodalMLP "
    "Phi4MultimodalAudioMLP MiniMaxM3VLDenseMLP Zamba2MLP"
)
VISION = (
    "VisionAttention Qwen2_5_VLVisionAttention Qwen3VLVisionAttention Qwen3VLMoeVisionAttention "
    "Qwen3OmniMoeVisionAttention Qwen3_5VisionAttention Qwen3_5MoeVisionAttention "
    "Glm4vVisionAttention Glm4vMoeVisionAttention VitDetAttention SamVisionAttention "
    "SamHQVisionAttention Blip2Attention BlipAttention InstructBlipAttention SegGptAttention"
)

FUSED: tuple[tuple[str, str, Callable[[Any], Inside]], ...] = (
    ("Phi3Attention Phi4MultimodalAttention", "qkv_proj.weight", _grouped),
    ("DbrxAttention", "Wqkv.weight", lambda m: _qkv(
        m.hidden_size, m.num_key_value_heads * m.head_dim, m.head_dim)),
    ("MptAttention", "Wqkv.weight", lambda m: _qkv(m.hidden_size, m.hidden_size, m.head_dim)),
    ("ModernBertAttention", "Wqkv.weight", lambda m: _qkv(
        m.Wo.in_features, m.Wo.in_features, m.head_dim)),
    (VISION, "qkv.weight", _vision),
    ("MultiheadAttention", "in_proj_weight", lambda m: _qkv(m.embed_dim, m.embed_dim, m.head_dim)),
    ("GPTNeoXAttention", "query_key_value.weight", lambda m: _per_head(
        m.config.num_attention_heads, *[m.head_size] * 3)),
    ("GPTNeoXJapaneseAttention", "query_key_value.weight", lambda m: _per_head(
        m.num_attention_heads, *[m.head_size] * 3)),
    ("BloomAttention PersimmonAttention", "query_key_value.weight", lambda m: _per_head(
        m.num_heads, *[m.head_dim] * 3)),
    ("FalconAttention", "query_key_value.weight", _falcon),
    ("GPTBigCodeAttention", "c_attn.weight", _bigcode),
    ("MiniMaxLightningAttention", "qkv_proj.weight", lambda m: _per_head(
        m.num_attention_heads, *[m.head_dim] * 3)),
    ("DisentangledSelfAttention", "in_proj.weight", lambda m: _per_head(
        m.num_attention_heads, *[m.attention_head_size] * 3)),
    ("CodeGenAttention", "qkv_proj.weight", _codegen),
    (GATED_QUERIES, "q_proj.weight", lambda m: _per_head(
        m.config.num_attention_heads, m.head_dim, m.head_dim,
        reason="queries and their gate, head by head")),
    ("Qwen3NextGatedDeltaNet", "in_proj_qkvz.weight", _delta_net),
    ("Qwen3NextGatedDeltaNet", "in_proj_ba.weight", lambda m: _per_head(
        m.num_k_heads, *[m.num_v_heads // m.num_k_heads] * 2,
        reason="two gates, head by head")),
    ("Qwen3_5GatedDeltaNet Qwen3_5MoeGatedDeltaNet", "in_proj_qkv.weight", lambda m: _apart(
        QKV, m.key_dim, m.key_dim, m.value_dim)),
    (MLA, "kv_b_proj.weight", lambda m: _per_head(
        m.num_heads, m.qk_nope_head_dim, m.v_head_dim, reason="keys and values, head by head")),
    (MLA, "kv_a_proj_with_mqa.weight", lambda m: _apart(
        "compressed keys and values, then the rotary key", m.kv_lora_rank, m.qk_rope_head_dim)),
    (GATED_MLPS, "gate_up_proj.weight", lambda m: _halves(m.down_proj)),
    ("GraniteMoeSharedMLP GraniteMoeHybridMLP GraniteMoeSWAMLP", "input_linear.weight",
     lambda m: _halves(m.output_linear)),
    ("ModernBertMLP ModernBertDecoderMLP", "Wi.weight", lambda m: _halves(m.Wo)),
    ("MambaMixer JambaMambaMixer FalconMambaMixer", "in_proj.weight", lambda m: _apart(
        "input and gate of a state space, one after the other", *[m.intermediate_size] * 2)),
    ("MambaMixer JambaMambaMixer FalconMambaMixer", "x_proj.weight", lambda m: _apart(
        "steps, B and C of a state space, one after the other",
        m.time_step_rank, m.ssm_state_size, m.ssm_state_size)),
    ("Mamba2Mixer BambaMixer GraniteMoeHybridMambaLayer NemotronHMamba2Mixer FalconH1Mixer "
     "Zamba2MambaMixer", "in_proj.weight", _mamba2),
    ("Lfm2ShortConv Lfm2MoeShortConv", "in_proj.weight", lambda m: _apart(
        "two gates and input of a short convolution", *[m.out_proj.in_features] * 3)),
    ("GPT2Attention DecisionTransformerGPT2Attention ImageGPTAttention Attention",
     "c_attn.weight", _conv1d_attention),
    ("Conv1D", "weight", lambda m: Inside(TRANSPOSED, (m.nf,), transposed=True)),
    ("RecurrentGemmaRglru", "input_gate_weight", lambda m: Inside(
        "heads stacked in one tensor", (m.block_width,), transposed=True)),
    ("RecurrentGemmaRglru", "recurrent_gate_weight", lambda m: Inside(
        "heads stacked in one tensor", (m.block_width,), transposed=True)),
    ("Llama4TextExperts", "gate_up_proj", lambda m: Inside(
        GATED_EXPERTS, (m.expert_dim, m.expert_dim), transposed=True)),
    ("Llama4TextExperts", "down_proj", lambda m: Inside(
        EXPERTS_APART, (m.hidden_size,), transposed=True)),
    ("DbrxExpertGLU", "w1", lambda m: Inside(
        EXPERTS_APART, (m.ffn_hidden_size,), stack=m.moe_num_experts)),
    ("DbrxExpertGLU", "v1", lambda m: Inside(
        EXPERTS_APART, (m.ffn_hidden_size,), stack=m.moe_num_experts)),
    ("DbrxExpertGLU", "w2", lambda m: Inside(
        EXPERTS_APART, (m.hidden_size,), transposed=True, stack=m.moe_num_experts)),
)  # fmt: skip
"""Classes, one of their weights, and what lies in it by the module's own numbers."""

LIBRARIES = ("transformers", "torch")
"""Whose classes are known by name; another library's may mean something else by the same one."""

FUSED_NAMES = frozenset(
    {"qkv", "qkv_proj", "query_key_value", "Wqkv", "W_pack", "c_attn", "gate_up_proj"}
)
"""What linear layers with several matrices are called; elsewhere than above, nobody says how."""

_BY_CLASS: dict[str, dict[str, Callable[[Any], Inside]]] = {}
for _classes, _weight, _layout in FUSED:
    for _class in _classes.split():
        _BY_CLASS.setdefault(_class, {})[_weight] = _layout


def known_weights(module: nn.Module) -> Iterator[tuple[str, Inside | None]]:
    """Yield the weights that a module is known to fuse or transpose.

    Returns:
        Path of the weight in the module, and what lies in it; None if the module lacks a number.
    """
    for path, layout in _BY_CLASS.get(library_class(module) or "", {}).items():
        try:
            yield path, layout(module)
        except AttributeError:
            yield path, None


def library_class(module: nn.Module) -> str | None:
    """Return the class whose ``forward`` a module runs; None if it is of no known library."""
    for cls in type(module).__mro__:
        if "forward" in vars(cls):
            return cls.__name__ if cls.__module__.split(".")[0] in LIBRARIES else None
    return None


def stacked_experts(owner: nn.Module, leaf: str, shape: tuple[int, ...]) -> Inside | None:
    """Return how experts that are stacked in one 3-D tensor are split.

    The expert modules of ``transformers`` say themselves how they store weights: whether gate and
    up follow one another or alternate, and whether a weight is transposed. DeepSpeed's AutoEP puts
    gate, up and down apart and marks each with ``is_expert_group``. Only what can be read there is
    known.

    Args:
        owner: the module that the parameter belongs to.
        leaf: the parameter's name in that module.
        shape: of the parameter.

    Returns:
        What lies in each ``[i]``; None if the module does not say enough.
    """
    if getattr(getattr(owner, leaf), "is_expert_group", False):
        return Inside(EXPERTS_APART, (shape[1],))
    transposed = getattr(owner, "is_transposed", None)
    gated, apart = (getattr(owner, name, None) for name in ("has_gate", "is_concatenated"))
    if not isinstance(transposed, bool) or len(shape) != 3:
        return None
    outputs = shape[2] if transposed else shape[1]
    if leaf == "down_proj" or (leaf == "up_proj" and gated is False):
        return Inside(EXPERTS_APART, (outputs,), transposed=transposed)
    if leaf != "gate_up_proj" or gated is not True or apart is None or outputs % 2:
        return None
    sizes, groups = ((outputs // 2,) * 2, 1) if apart else ((1, 1), outputs // 2)
    return Inside(GATED_EXPERTS, sizes, groups, transposed)
