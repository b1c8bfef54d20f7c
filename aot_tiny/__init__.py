"""A small world that code draws, questions about it, and the training of the model that answers them."""
