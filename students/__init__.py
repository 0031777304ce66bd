"""Students: small recommenders that are trained by distillation and served from ONNX."""
