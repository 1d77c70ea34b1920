"""Kernels: one file an op, with its Python face and the plain PyTorch that defines it."""
