"""Training LLaVA-NeXT's way: arguments under upstream's names, conversations with images and videos, HF Trainer."""
