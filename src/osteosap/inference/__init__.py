"""osteosap.inference."""
