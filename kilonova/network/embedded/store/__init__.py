"""The store of the embedded network: one module per noun, every function inside the caller's transaction."""
