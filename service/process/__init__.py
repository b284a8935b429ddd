"""What the process has of the machine: its CPUs, and the priority of its threads."""
