"""The runtime of an exported bundle: numpy and onnxruntime, no torch."""
