"""The networks of a pipeline, each a class that owns all that its export needs."""

from build_engines.networks.base import Axis, Case, NetworkExport, Tensor
from build_engines.networks.controlnet import ControlNet
from build_engines.networks.text_encoder import ClipTextEncoder, SdxlTextEncoder, SdxlTextEncoder2
from build_engines.networks.unet import SdxlRefinerUnet, SdxlUnet, Unet
from build_engines.networks.vae import VaeDecoder, VaeEncoder

__all__ = [
    "Axis",
    "Case",
    "ClipTextEncoder",
    "ControlNet",
    "NetworkExport",
    "SdxlRefinerUnet",
    "SdxlTextEncoder",
    "SdxlTextEncoder2",
    "SdxlUnet",
    "Tensor",
    "Unet",
    "VaeDecoder",
    "VaeEncoder",
]
