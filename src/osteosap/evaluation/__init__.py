"""osteosap.evaluation."""
