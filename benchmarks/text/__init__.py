"""Texts: an exact head, a fine-tuned encoder and a small transformer, against retrained models."""
