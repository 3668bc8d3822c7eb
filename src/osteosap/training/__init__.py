"""osteosap.training."""
