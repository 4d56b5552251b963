"""Training Keras models: the learner of the loop, and callbacks for ``fit``."""
