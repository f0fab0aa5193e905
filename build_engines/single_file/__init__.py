"""Single-file checkpoints: Stable Diffusion's published layout in one safetensors file.

The file is presented as the diffusers folder that it could be converted to: configurations are
made from the shapes of its tensors, tensors are renamed as they are read, and CLIP's vocabulary
comes from a package.
"""

from build_engines.single_file.checkpoint import SingleFile, open_single_file
from build_engines.single_file.controlnet import SingleControlNet, open_single_controlnet

__all__ = ["SingleControlNet", "SingleFile", "open_single_controlnet", "open_single_file"]
