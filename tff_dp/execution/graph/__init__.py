"""TensorFlow graphs of TFF computations: read, written into other graphs, keyed, and traced."""
