"""osteosap.simulate."""
