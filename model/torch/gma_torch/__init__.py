"""Gaussian Mixture Attention language models in PyTorch.

The differentiable model (`GmaDecoder`), its training, evaluation and conversion from softmax
transformers. The mathematics is in docs/MATH.md of the repository; modules name its sections.
"""
