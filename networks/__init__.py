"""The networks of a pipeline, each a class that owns all that its export needs."""

from networks.base import (
    Adapter,
    Attention,
    Axis,
    Case,
    Limits,
    NetworkExport,
    Profile,
    Space,
    Tensor,
)
from networks.controlnet import ControlNet
from networks.text_encoder import ClipTextEncoder, SdxlTextEncoder, SdxlTextEncoder2
from networks.unet import SdxlRefinerUnet, SdxlUnet, Unet
from networks.vae import VaeDecoder, VaeEncoder

__all__ = [
    "Adapter",
    "Attention",
    "Axis",
    "Case",
    "ClipTextEncoder",
    "ControlNet",
    "Limits",
    "NetworkExport",
    "Profile",
    "SdxlRefinerUnet",
    "SdxlTextEncoder",
    "SdxlTextEncoder2",
    "SdxlUnet",
    "Space",
    "Tensor",
    "Unet",
    "VaeDecoder",
    "VaeEncoder",
]
