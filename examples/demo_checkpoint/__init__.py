"""A small Stable Diffusion checkpoint of cartoon faces: its pictures and its training.

python -m examples.demo_checkpoint train [--state DIR] [--device cpu|cuda]
python -m examples.demo_checkpoint export FOLDER [--state DIR]
"""
