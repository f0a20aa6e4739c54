"""The method of the paper: losses, objective, schedules, optimizer, and the training step."""
