"""What all cases share."""
