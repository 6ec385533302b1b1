"""TensorFlow graphs of TFF computations: reading, rewriting, keying of random numbers, tracing."""
