"""The machine: processes, devices, compilation, meters, random keys."""
