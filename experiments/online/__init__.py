"""Online learning of slowly-changing regression (bit flipping), at published scale: many seeds in one compiled program."""
