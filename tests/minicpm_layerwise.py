"""A decoder with a head at every layer, as bge-reranker-v2-minicpm-layerwise has them: MiniCPM's scaled embeddings,
residuals and hidden states over Llama's layers. Tests copy this file into a model's folder as its authors' code."""

import math

import torch
from torch import nn
from transformers import LlamaConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaMLP, LlamaRMSNorm, LlamaRotaryEmbedding


class LayerWiseMiniCPMConfig(LlamaConfig):
    model_type = "minicpm"

    def __init__(self, scale_emb=12, scale_depth=1.4, dim_model_base=16, start_layer=1, **given):
        super().__init__(**given)
        self.scale_emb, self.scale_depth, self.dim_model_base = scale_emb, scale_depth, dim_model_base
        self.start_layer = start_layer


class _Layer(nn.Module):
    def __init__(self, config, index):
        super().__init__()
        self.self_attn, self.mlp = LlamaAttention(config, index), LlamaMLP(config)
        self.input_layernorm = LlamaRMSNorm(config.hidden_size)
        self.post_attention_layernorm = LlamaRMSNorm(config.hidden_size)
        self.scale = config.scale_depth / math.sqrt(config.num_hidden_layers)

    def forward(self, hidden, mask, rotary):
        attended, _ = self.self_attn(self.input_layernorm(hidden), position_embeddings=rotary, attention_mask=mask)
        hidden = hidden + attended * self.scale
        return hidden + self.mlp(self.post_attention_layernorm(hidden)) * self.scale


class LayerWiseMiniCPMForCausalLM(PreTrainedModel):
    config_class = LayerWiseMiniCPMConfig
    _supports_sdpa = True

    def __init__(self, config):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([_Layer(config, i) for i in range(config.num_hidden_layers)])
        self.norm = LlamaRMSNorm(config.hidden_size)
        self.rotary = LlamaRotaryEmbedding(config)
        heads = range(config.start_layer, config.num_hidden_layers + 1)
        self.lm_head = nn.ModuleList([nn.Linear(config.hidden_size, 1, bias=False) for _ in heads])
        self.post_init()

    def forward(
        self,
        input_ids,
        attention_mask=None,
        position_ids=None,
        use_cache=None,
        return_dict=None,
        cutoff_layers=None,
    ):
        length = input_ids.shape[1]
        if position_ids is None:
            position_ids = torch.arange(length, device=input_ids.device)[None]
        hidden = self.embed_tokens(input_ids) * self.config.scale_emb
        seen = torch.ones(length, length, device=hidden.device).tril().bool()[None, None]
        if attention_mask is not None:
            seen = seen & attention_mask[:, None, None].bool()
        mask = torch.zeros(seen.shape, device=hidden.device).masked_fill(~seen, torch.finfo(hidden.dtype).min)
        rotary = self.rotary(hidden, position_ids)
        logits = ()
        for number, layer in enumerate(self.layers, 1):
            hidden = layer(hidden, mask.to(hidden.dtype), rotary)
            if number in (cutoff_layers or [len(self.layers)]):
                scaled = self.norm(hidden) / (self.config.hidden_size / self.config.dim_model_base)
                scores = self.lm_head[number - self.config.start_layer](scaled)
                logits += (scores.float().reshape(len(input_ids), -1),)
        return CausalLMOutputWithPast(logits=logits)  # type: ignore[arg-type]
