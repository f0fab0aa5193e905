"""The networks of a pipeline, each a class that owns all that its export needs."""

from build_engines.networks.base import Axis, Case, NetworkExport, Tensor
from build_engines.networks.controlnet import ControlNet
from build_engines.networks.text_encoder import ClipTextEncoder
from build_engines.networks.unet import Unet
from build_engines.networks.vae import VaeDecoder, VaeEncoder

__all__ = [
    "Axis",
    "Case",
    "ClipTextEncoder",
    "ControlNet",
    "NetworkExport",
    "Tensor",
    "Unet",
    "VaeDecoder",
    "VaeEncoder",
]
