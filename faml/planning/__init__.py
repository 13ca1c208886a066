"""What a run would take, predicted from a few particles on this machine."""
