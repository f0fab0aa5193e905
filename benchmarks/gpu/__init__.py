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
seg, engine         also onnx, ml_dtypes, onnxruntime, tokenizers, torchsde, scipy, opencv, pillow,
                    tqdm, tritonclient[grpc] (which the build imports), psutil, cryptography
server              also nvidia-pytriton and numpy below 2 (Triton's Python stub), Python's shared
                    library (libpython3.12.so.1.0), grpcio-health-checking
tensorrt            as seg, and TensorRT's Python package, 11.x, or TensorRT for RTX's
golden              as seg; the folder ``tests`` of the repository
=================== ==============================================================================

Sizes of what a machine with torch mostly lacks (wheels for Python 3.12, x86-64): nvidia-pytriton
53 MiB, numpy 1.26.4 17 MiB, diffusers 6 MiB, cryptography 5 MiB, pydantic with pydantic-core
3 MiB, python-rapidjson 2 MiB, and less than 1 MiB together tritonclient, torchsde, trampoline,
grpcio-health-checking, annotated-types and typing-inspection. (TensorRT's own libraries take
gigabytes.)

Without a GPU it runs too: ``--sizes tiny --precision fp32 --rate-side 256 --steps 2``.
"""
