"""What a run survives or detects: preemption, bad steps, corrupt devices, second writers."""
