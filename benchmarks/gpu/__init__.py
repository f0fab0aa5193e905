"""What the networks, the step engine and the server reach on a GPU, by one command.

    python -m benchmarks.gpu --out DIR [--minutes 8] [--parts rate,seg,…]

No checkpoint is needed: the networks are of SD1.5's and SDXL's size, with random weights made on
the GPU. DIR/PART.json has a part's rows and DIR/gpu.md the page with the tables of all; both are
written after every row. The same command again measures what is missing, with ``--again``
everything.

The minutes are shared over the parts (:data:`benchmarks.gpu.parts.PARTS` has the weights); what a
part does not use is left to those after it. A row that does not fit, or for which something is
missing on the machine, is listed with the reason and does not stop the rest. One minute after its
time the program ends itself, whatever it waits for.

Packages for each part, of ``requirements.txt`` unless named otherwise:

=================== ==============================================================================
rate                torch alone
unet, vae           diffusers, transformers, safetensors, pydantic
pipeline, seg,      also onnx, ml_dtypes, onnxruntime, onnxscript, tokenizers, torchsde, scipy,
engine              opencv, pillow, psutil, cryptography, grpcio, tritonclient
server              also nvidia-pytriton, numpy below 2 and a scipy for it (Triton's Python stub
                    breaks with numpy 2), Python's shared library (libpython3.12.so.1.0)
tensorrt            as seg, and TensorRT's Python package, 11.x, or TensorRT for RTX's
golden              as seg; the repository's folder ``tests``
=================== ==============================================================================

Wheels for Python 3.12 on x86-64 that a machine with torch mostly lacks, in MiB: nvidia-pytriton 53,
scipy 1.15.3 36, numpy 1.26.4 17, diffusers 6, cryptography 5, pydantic with pydantic-core 3,
python-rapidjson 2, and together less than 1: tritonclient, torchsde, trampoline,
grpcio-health-checking, annotated-types, typing-inspection, importlib-metadata, cffi and pycparser.
They have to be installed into a folder named ``site-packages``, see ``docs/lab/measurements.md``.
(TensorRT's own libraries take gigabytes.)

Without a GPU it runs too: ``--sizes tiny --precision fp32 --rate-side 256 --steps 2``.
"""
