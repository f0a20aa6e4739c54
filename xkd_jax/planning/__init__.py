"""Plans of runs on TPU slices, from the program that the TPU compiler generates."""
