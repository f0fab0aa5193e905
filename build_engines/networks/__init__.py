"""The networks of a pipeline, each a class that owns all that its export needs."""

from build_engines.networks.base import (
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
from build_engines.networks.controlnet import ControlNet
from build_engines.networks.text_encoder import ClipTextEncoder, SdxlTextEncoder, SdxlTextEncoder2
from build_engines.networks.unet import SdxlRefinerUnet, SdxlUnet, Unet
from build_engines.networks.vae import VaeDecoder, VaeEncoder

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
