"""ONNX export of students: the traced encoder, the scoring head, row-wise int8, and the parity gate."""
