"""The networks of a pipeline; each is a class with everything that its export needs."""

from networks.base import (
    Adapter,
    Attention,
    Axis,
    BatchLimits,
    NetworkExport,
    Profile,
    ShapeCase,
    Space,
    TensorSpec,
)
from networks.controlnet import ControlNet
from networks.text_encoder import ClipTextEncoder, SdxlTextEncoder, SdxlTextEncoder2
from networks.unet import SdxlRefinerUnet, SdxlUnet, Unet
from networks.vae import VaeDecoder, VaeEncoder

__all__ = [
    "Adapter",
    "Attention",
    "Axis",
    "BatchLimits",
    "ClipTextEncoder",
    "ControlNet",
    "NetworkExport",
    "Profile",
    "SdxlRefinerUnet",
    "SdxlTextEncoder",
    "SdxlTextEncoder2",
    "SdxlUnet",
    "ShapeCase",
    "Space",
    "TensorSpec",
    "Unet",
    "VaeDecoder",
    "VaeEncoder",
]
