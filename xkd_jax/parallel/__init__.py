"""What is split over which devices, and the processes of a run."""
