"""What training is, for any framework: the learner's protocol, batches, schedules, callbacks."""
