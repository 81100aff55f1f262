"""Static quantization: activations rounded to ranges that were calibrated, so that whole layers run in integers."""
