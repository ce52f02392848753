"""spotrun: PyTorch training on spot capacity as if the capacity were reliable."""
