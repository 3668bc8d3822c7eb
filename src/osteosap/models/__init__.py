"""osteosap.models."""
