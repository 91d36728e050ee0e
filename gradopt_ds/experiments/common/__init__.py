"""What several experiments share: models, command lines, launching ranks."""
