"""Training, independent of the framework: the learner's protocol, batches, schedules, callbacks."""
