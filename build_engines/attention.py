"""The two forms that attention is exported in.

:data:`FUSED` is one onnxruntime operator, ``com.microsoft.MultiHeadAttention``, which computes
attention in blocks (flash attention) on a CPU and with fused kernels on a GPU. :data:`PLAIN` is
MatMul, Softmax, MatMul of the ONNX standard, which TensorRT recognises and fuses; its score matrix
of heads × tokens × tokens takes 2.7 GB per row for a picture of 768 px.

Modules are switched only for the export; they are checked against the results of the libraries'
own attention.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from transformers import AttentionInterface

from build_engines.errors import CheckpointError

CONTRIB_DOMAIN = "com.microsoft"

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, int, float, bool], torch.Tensor]
"""softmax(q·kᵀ·scale)·v over heads: q [B, S, H·E], k and v [B, T, H·E], heads, scale and whether
it is causal → [B, S, H·E]."""


@dataclass(frozen=True)
class AttentionForm:
    """A form of attention for the models of both libraries."""

    name: str
    attend: Attend
    domains: Mapping[str, int] = field(default_factory=dict)
    """Further operator sets with their versions."""

    def use_in_diffusers(self, model: Any) -> None:
        """Switches a diffusers model in place."""
        model.set_attn_processor(_Processor(self.attend))

    def use_in_clip(self, encoder: Any) -> None:
        """Switches a CLIP text encoder in place. For an attention with an unknown name,
        transformers makes no mask; this one is causal without it."""
        name = f"segs_causal_{self.name}"
        AttentionInterface.register(name, _clip_attention(self.attend))
        encoder.config._attn_implementation = name


class _MultiHeadAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        heads: int,
        scale: float,
        causal: bool,
    ) -> torch.Tensor:
        q, k, v = (_split(x, heads).transpose(1, 2) for x in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale)
        return mixed.transpose(1, 2).flatten(2)

    @staticmethod
    def symbolic(g: Any, q: Any, k: Any, v: Any, heads: int, scale: float, causal: bool) -> Any:
        """The exported node, with the query's shape."""
        out = g.op(
            f"{CONTRIB_DOMAIN}::MultiHeadAttention",
            *(q, k, v),
            num_heads_i=heads,
            scale_f=scale,
            unidirectional_i=int(causal),
        )
        out.setType(q.type())
        return out


def _plain(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, scale: float, causal: bool
) -> torch.Tensor:
    q, k, v = (_split(x, heads).transpose(1, 2) for x in (q, k, v))
    # Scaled before the product, which could overflow in half precision otherwise.
    scores = (q * scale) @ k.transpose(2, 3)
    if causal:
        tokens = int(scores.shape[-1])
        least = torch.finfo(scores.dtype).min
        scores = scores + torch.full((tokens, tokens), least).triu(1).to(scores.dtype)
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def _split(x: torch.Tensor, heads: int) -> torch.Tensor:
    # [B, S, H·E] → [B, S, H, E]
    return x.reshape(x.shape[0], x.shape[1], heads, x.shape[2] // heads)


class _Processor:
    """A diffusers attention processor: the default arithmetic in one of the two forms."""

    def __init__(self, attend: Attend) -> None:
        self._attend = attend

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attention over tokens [B, S, C] or, in a VAE, pixels [B, C, h, w]; same shape back.

        Raises:
            CheckpointError: the layer has a part that SD's networks do not have.
        """
        for part in ("spatial_norm", "norm_q", "norm_k", "norm_cross"):
            if getattr(attn, part, None):
                raise CheckpointError(f"attention with {part} is not supported")
        residual = hidden_states
        if residual.ndim == 4:
            hidden_states = hidden_states.flatten(2).transpose(1, 2)
        if attn.group_norm is not None:
            hidden_states = attn.group_norm(hidden_states.transpose(1, 2)).transpose(1, 2)
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        mixed = self._attend(q, k, v, attn.heads, attn.scale, False)
        out: torch.Tensor = attn.to_out[0](mixed)
        if residual.ndim == 4:
            out = out.transpose(1, 2).reshape(residual.shape)
        if attn.residual_connection:
            out = out + residual
        return out / attn.rescale_output_factor if attn.rescale_output_factor != 1 else out


def _clip_attention(attend: Attend) -> Callable[..., tuple[torch.Tensor, None]]:
    def attention(
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, None]:
        # [B, H, S, E] each → [B, S, H, E]
        heads = int(query.shape[1])
        q, k, v = (x.transpose(1, 2).flatten(2) for x in (query, key, value))
        return _split(attend(q, k, v, heads, scaling, True), heads), None

    return attention


_fused: Any = _MultiHeadAttention.apply
FUSED = AttentionForm("fused", _fused, {CONTRIB_DOMAIN: 1})
PLAIN = AttentionForm("plain", _plain)
