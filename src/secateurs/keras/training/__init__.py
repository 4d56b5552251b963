"""Train Keras models with ``fit``: the learner of the loop, and callbacks."""
