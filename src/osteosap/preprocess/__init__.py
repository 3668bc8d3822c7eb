"""osteosap.preprocess."""
