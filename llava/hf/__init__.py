"""Checkpoints of transformers' own video models: their processors without torchvision, and the chat on them."""
