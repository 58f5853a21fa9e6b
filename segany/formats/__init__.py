"""The files that people keep weights in: pickles, safetensors, shards, training checkpoints and adapters."""
