"""Recipes: what is quantized and how, the oracle, and the models they become."""
