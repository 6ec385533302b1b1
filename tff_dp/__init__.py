"""Differentially private federated learning for Keras, on TensorFlow Federated."""
