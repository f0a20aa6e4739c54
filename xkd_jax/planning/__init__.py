"""Plans of runs on TPU slices and GPUs, from the program that the compiler generates."""
