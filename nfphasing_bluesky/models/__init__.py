"""The shipped weights with their cards, and how a model folder is read and written."""
