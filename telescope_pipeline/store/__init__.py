"""Where results lie, and how they are written so that they are whole or not there."""
