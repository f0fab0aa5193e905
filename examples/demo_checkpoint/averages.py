"""Starts an autoencoder as one that averages blocks of 8×8 pixels.

From random weights it takes thousands of steps until tones are right, as every normalisation on
the way takes some of them away. Here three pairs of channels carry red, green and blue and their
opposites through all layers: ``silu(x) − silu(−x) = x``, and a pair's mean is 0, so that neither
activations nor normalisations touch them but for their scale.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

_COLOURS = 3
_CARRIERS = 2 * _COLOURS
_NORMALISED_SCALE = 0.5
"""About a carrier's scale before its last normalisation, which brings it to 1."""
_LOG_VARIANCE = -4.0


@torch.no_grad()
def start_from_averages(vae: Any) -> None:
    """Changes the new autoencoder's weights; the latent's first three channels are the colours."""
    encoder, decoder = vae.encoder, vae.decoder
    _spread(encoder.conv_in)
    _pass_through(encoder, encoder.down_blocks)
    for block in encoder.down_blocks:
        for sampler in block.downsamplers or ():
            _carry(sampler.conv)
            # Padded at the right and the bottom alone: these taps are the 2×2 pixels of one output.
            _identity(sampler.conv.weight[..., :2, :2], 0.25)
    _gather(encoder.conv_out)
    encoder.conv_out.bias[len(encoder.conv_out.bias) // 2 :] = _LOG_VARIANCE
    for convolution in (vae.quant_conv, vae.post_quant_conv):
        nn.init.dirac_(convolution.weight)
        nn.init.zeros_(convolution.bias)
    _spread(decoder.conv_in)
    _pass_through(decoder, decoder.up_blocks)
    for block in decoder.up_blocks:
        for sampler in block.upsamplers or ():
            _carry(sampler.conv)
            _identity(sampler.conv.weight[..., 1:2, 1:2], 1.0)
    _gather(decoder.conv_out)


def _pass_through(half: Any, blocks: Any) -> None:
    """Residual branches add nothing yet, and the shortcuts keep the carriers."""
    resnets = [resnet for block in (*blocks, half.mid_block) for resnet in block.resnets]
    for resnet in resnets:
        nn.init.zeros_(resnet.conv2.weight)
        nn.init.zeros_(resnet.conv2.bias)
        if resnet.conv_shortcut is not None:
            _carry(resnet.conv_shortcut)
            _identity(resnet.conv_shortcut.weight, 1.0)
    for attention in half.mid_block.attentions:
        nn.init.zeros_(attention.to_out[0].weight)
        nn.init.zeros_(attention.to_out[0].bias)


def _carry(convolution: nn.Conv2d) -> None:
    convolution.weight[:_CARRIERS] = 0
    if convolution.bias is not None:
        convolution.bias[:_CARRIERS] = 0


def _identity(taps: torch.Tensor, value: float) -> None:
    for channel in range(_CARRIERS):
        taps[channel, channel] = value


def _spread(convolution: nn.Conv2d) -> None:
    """Colours → carriers."""
    _carry(convolution)
    for colour in range(_COLOURS):
        convolution.weight[2 * colour, colour, 1, 1] = 1
        convolution.weight[2 * colour + 1, colour, 1, 1] = -1


def _gather(convolution: nn.Conv2d) -> None:
    """Activated carriers → colours."""
    nn.init.zeros_(convolution.weight)
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    for colour in range(_COLOURS):
        convolution.weight[colour, 2 * colour, 1, 1] = _NORMALISED_SCALE
        convolution.weight[colour, 2 * colour + 1, 1, 1] = -_NORMALISED_SCALE
