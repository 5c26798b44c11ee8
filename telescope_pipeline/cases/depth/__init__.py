"""First- and second-order telescoping of deep networks, plain and residual."""
