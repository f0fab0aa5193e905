"""The time of a network on a GPU: the same for few rows as for one, then in proportion.

Constants are of SD1.5 at 512² in fp16 with TensorRT on an A10:

- UNet 40 ms a call. Published for the A10 are 12577 ms for 40 steps of SDXL at 1024²
  (https://huggingface.co/stabilityai/stable-diffusion-xl-1.0-tensorrt), 314 ms a call, of a network
  with 7.5 times the operations. (An RTX 3090 Ti takes 25 ms:
  https://github.com/mlc-ai/web-stable-diffusion/issues/46; ``scale`` 0.625 gives that.)
- The others in the relation of TensorRT's demo ("CLIP 3.40 ms, UNet x 30 495.92 ms, VAE-Dec
  24.88 ms", quoted in the benchmark scripts of onnxruntime): VAE decoder 60 ms, text encoder 8 ms.
  The VAE's encoder has somewhat fewer layers than its decoder: 36 ms.

That 16 rows cost as much as one is an assumption: it holds where one row leaves most of the card
idle (small SEGs, large cards), while 512² fills an A10 with fewer rows. ``flat_rows`` is free.
"""

from __future__ import annotations

from dataclasses import dataclass

FLOORS_S = {"text_encoder": 0.008, "unet": 0.040, "vae_encoder": 0.036, "vae_decoder": 0.060}
FLAT_ROWS = 16
CONTEXT_DIM = 768
_TOKENS = 77
_LATENT_CHANNELS = 4
_FACTOR = 8
_ELEMENTS = {
    "text_encoder": _TOKENS,
    "unet": _LATENT_CHANNELS * 64 * 64,
    "vae_encoder": 3 * 512 * 512,
    "vae_decoder": _LATENT_CHANNELS * 64 * 64,
}
"""Of one row of each network's first input at 512²."""


@dataclass(frozen=True)
class Curve:
    """One network's time. ``flat_rows`` rows of 512² cost as much as one."""

    role: str
    floor_s: float
    flat_rows: float

    def seconds(self, shape: tuple[int, ...]) -> float:
        """Of a batch whose first input has this shape, rows first."""
        elements = 1
        for size in shape:
            elements *= size
        rows = elements / _ELEMENTS[self.role]
        return self.floor_s * max(1.0, rows / self.flat_rows)

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Of the network's output, for a first input of this shape."""
        rows, *rest = shape
        if self.role == "text_encoder":
            return rows, _TOKENS, CONTEXT_DIM
        if self.role == "unet":
            return shape
        height, width = rest[-2:]
        if self.role == "vae_encoder":
            return rows, _LATENT_CHANNELS, height // _FACTOR, width // _FACTOR
        return rows, 3, height * _FACTOR, width * _FACTOR


def curves(scale: float = 1.0, flat_rows: float = FLAT_ROWS) -> dict[str, Curve]:
    """Every network's curve by its role; ``scale`` times slower than the constants."""
    return {role: Curve(role, floor_s * scale, flat_rows) for role, floor_s in FLOORS_S.items()}
