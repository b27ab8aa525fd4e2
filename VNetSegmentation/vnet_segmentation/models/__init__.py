"""Models as folders and files: weights, description, card."""
