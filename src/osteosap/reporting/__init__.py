"""osteosap.reporting."""
