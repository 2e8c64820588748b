"""Versioned checkpoints and dataset arrays as plain files: safetensors, npy and JSON; no pickle."""
