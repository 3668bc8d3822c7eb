"""osteosap.cli."""
